package kms_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/kms"
)

const labKMS = "https://kms.lab.example:8200"

// tokens is a user with tokens in places.
type tokens struct {
	*testing.T
	home, cloister string
}

func newTokens(t *testing.T) tokens {
	for _, name := range []string{"BAO_TOKEN", "VAULT_TOKEN", "BAO_ADDR", "VAULT_ADDR"} {
		t.Setenv(name, "")
	}
	u := tokens{t, t.TempDir(), t.TempDir()}
	t.Setenv("HOME", u.home)
	return u
}

func (u tokens) own() string   { return filepath.Join(u.cloister, "kms-token") }
func (u tokens) vault() string { return filepath.Join(u.home, ".vault-token") }
func (u tokens) login() string { return kms.TokenPath(u.cloister, "lab") }

func (u tokens) write(path, text string) {
	u.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		u.Fatal(err)
	}
}

func (u tokens) expect(alone bool, want, source string) {
	u.Helper()
	tok, from, err := kms.UserToken(u.cloister, "lab", labKMS, alone)
	if err != nil || string(tok.Reveal()) != want || from != source {
		u.Errorf("from %q, %v; want %s from %s", from, err, want, source)
	}
}

// none wants no token, and each of says in the error.
func (u tokens) none(alone bool, says ...string) {
	u.Helper()
	tok, from, err := kms.UserToken(u.cloister, "lab", labKMS, alone)
	if !errors.Is(err, kms.ErrNoUserToken) || tok.Len() != 0 {
		u.Errorf("a token from %q, %v", from, err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			u.Errorf("%v; want %q in it", err, s)
		}
	}
	if strings.Contains(err.Error(), "s.institute") {
		u.Errorf("the error has the token: %v", err)
	}
}

func TestTheUsersTokenIsFoundWhereBaoAndVaultLeaveIt(t *testing.T) {
	u := newTokens(t)
	u.none(true, u.own(), "cloister login")
	t.Setenv("VAULT_ADDR", labKMS)
	u.write(u.vault(), "s.vault")
	u.expect(true, "s.vault", u.vault())
	u.write(u.own(), "s.own\n")
	u.expect(true, "s.own", u.own())
	t.Setenv("VAULT_TOKEN", "s.vaultenv")
	u.expect(true, "s.vaultenv", "VAULT_TOKEN")
	t.Setenv("BAO_ADDR", labKMS)
	t.Setenv("BAO_TOKEN", "s.baoenv")
	u.expect(true, "s.baoenv", "BAO_TOKEN")
	u.write(kms.TokenPath(u.cloister, "other"), "s.other")
	u.expect(true, "s.baoenv", "BAO_TOKEN")
	u.write(u.login(), "s.login\n")
	u.expect(true, "s.login", u.login())
	u.expect(false, "s.login", u.login())
}

func TestATokenOfAnotherServerIsNotTaken(t *testing.T) {
	t.Run("BAO_TOKEN and VAULT_TOKEN", func(t *testing.T) {
		for _, tool := range []string{"BAO", "VAULT"} {
			u := newTokens(t)
			t.Setenv(tool+"_TOKEN", "s.institute")
			u.none(true, tool+"_TOKEN was passed over", tool+"_ADDR is not set", "set "+tool+"_ADDR="+labKMS, "cloister login")
			t.Setenv(tool+"_ADDR", "https://vault.institute.example:8200")
			u.none(true, tool+"_ADDR names another server", "set "+tool+"_ADDR="+labKMS)
			t.Setenv(tool+"_ADDR", labKMS)
			u.expect(true, "s.institute", tool+"_TOKEN")
			u.expect(false, "s.institute", tool+"_TOKEN")
		}
	})
	t.Run("the other tool's address", func(t *testing.T) {
		u := newTokens(t)
		t.Setenv("VAULT_TOKEN", "s.institute")
		t.Setenv("BAO_ADDR", labKMS)
		u.none(true, "VAULT_TOKEN was passed over")
	})
	t.Run("~/.vault-token", func(t *testing.T) {
		u := newTokens(t)
		u.write(u.vault(), "s.institute")
		u.none(true, u.vault()+" was passed over", "set VAULT_ADDR="+labKMS)
		t.Setenv("BAO_ADDR", labKMS)
		u.expect(true, "s.institute", u.vault())
		t.Setenv("VAULT_ADDR", "https://vault.institute.example:8200")
		u.none(true, u.vault()+" was passed over", "VAULT_ADDR names another server")
		t.Setenv("VAULT_ADDR", labKMS)
		u.expect(false, "s.institute", u.vault())
		t.Setenv("BAO_ADDR", "https://bao.institute.example")
		u.none(true, "BAO_ADDR names another server")
	})
	t.Run("kms-token", func(t *testing.T) {
		u := newTokens(t)
		u.write(u.own(), "s.institute")
		u.none(false, u.own()+" was passed over", "several clusters", "cloister login --site lab --method token <"+u.own())
		u.expect(true, "s.institute", u.own())
	})
	t.Run("what is passed over hides nothing", func(t *testing.T) {
		u := newTokens(t)
		t.Setenv("BAO_TOKEN", "s.institute")
		t.Setenv("VAULT_TOKEN", "s.lab")
		t.Setenv("VAULT_ADDR", labKMS)
		u.expect(true, "s.lab", "VAULT_TOKEN")
	})
}

func TestAnAddressIsTheSameServerHoweverItIsWritten(t *testing.T) {
	u := newTokens(t)
	t.Setenv("VAULT_TOKEN", "s.lab")
	for address, same := range map[string]bool{
		"https://kms.lab.example:8200/":         true,
		"HTTPS://KMS.Lab.example:8200":          true,
		"http://kms.lab.example:8200":           false,
		"https://kms.lab.example":               false,
		"https://kms.lab.example:443":           false,
		"https://kms.lab.example:82000":         false,
		"https://kms.lab.example.org:8200":      false,
		"https://kms.lab.example:8200@evil.org": false,
		"kms.lab.example:8200":                  false,
		"https://%zz":                           false,
	} {
		t.Setenv("VAULT_ADDR", address)
		if _, _, err := kms.UserToken(u.cloister, "lab", labKMS, true); (err == nil) != same {
			t.Errorf("%s: %v", address, err)
		}
	}
	t.Setenv("VAULT_ADDR", "https://kms.lab.example:443")
	if _, _, err := kms.UserToken(u.cloister, "lab", "https://kms.lab.example", true); err != nil {
		t.Errorf("the port of HTTPS: %v", err)
	}
}

func TestATokenFileThatIsDamagedOrNotTheUsersAloneIsRefused(t *testing.T) {
	u := newTokens(t)
	refused := func(name, want string) {
		t.Helper()
		_, _, err := kms.UserToken(u.cloister, "lab", labKMS, true)
		if err == nil || strings.Contains(err.Error(), "CANARY") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"two lines": "s.CANARY\ns.CANARY\n", "empty": "", "long": strings.Repeat("CANARY", 2000)} {
		u.write(u.own(), text)
		refused(name, u.own())
	}
	u.write(u.own(), "s.own\n")
	if err := os.Chmod(u.own(), 0o640); err != nil {
		t.Fatal(err)
	}
	refused("a token that others can read", "chmod 600")
	t.Setenv("VAULT_ADDR", labKMS)
	t.Setenv("VAULT_TOKEN", "s.CANARY s.CANARY")
	refused("a variable with two words", "VAULT_TOKEN")
}
