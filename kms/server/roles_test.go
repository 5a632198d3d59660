package server

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/secret"
)

func (k *kmsUnderTest) userOf(name, role string) string {
	k.t.Helper()
	tok, err := k.state().AddUser(name, role)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(tok.Reveal())
}

func (k *kmsUnderTest) setRole(r Role, replace bool) {
	k.t.Helper()
	if err := k.state().SetRole(r, replace); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kmsUnderTest) wantCode(want int, code int, text string) {
	k.t.Helper()
	if code != want {
		k.t.Errorf("answer %d %s, want %d", code, text, want)
	}
}

func TestEachRoleMayDoWhatItSaysAndNoMore(t *testing.T) {
	k := newKMS(t, Config{})
	if err := k.state().SetRole(Role{Name: "all", May: []string{MayWrap, MayList, MayRevoke}}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		role               string
		wrap, list, revoke int
	}{
		{DefaultRole, 200, 403, 400},
		{"auditor", 403, 200, 400},
		{"operator", 403, 200, 204},
		{"all", 200, 200, 204},
	} {
		t.Run(c.role, func(t *testing.T) {
			k.t = t
			tok := k.userOf("u-"+c.role, c.role)
			alices := k.wrapOK(k.user, `{"job_key":"x"}`, "1h")
			accessor := `{"accessor":"` + alices.Accessor + `"}`

			code, text := k.ask("PUT", "sys/wrapping/wrap", `{"a":"b"}`, "X-Vault-Token", tok, "X-Vault-Wrap-TTL", "60")
			k.wantCode(c.wrap, code, text)
			for _, method := range []string{"LIST", "GET"} {
				path := map[string]string{"LIST": "auth/token/accessors", "GET": "auth/token/accessors?list=true"}[method]
				code, text = k.ask(method, path, "", "X-Vault-Token", tok)
				k.wantCode(c.list, code, text)
				if listed := strings.Contains(text, alices.Accessor); listed != (c.list == 200) {
					t.Errorf("listing says %s", text)
				}
			}
			code, text = k.ask("PUT", "auth/token/lookup-accessor", accessor, "X-Vault-Token", tok)
			k.wantCode(c.list, code, text)
			if c.list == 200 && (!strings.Contains(text, `"display_name":"alice"`) || strings.Contains(text, alices.Token)) {
				t.Errorf("lookup says %s", text)
			}
			code, text = k.ask("PUT", "auth/token/revoke-accessor", accessor, "X-Vault-Token", tok)
			k.wantCode(c.revoke, code, text)
			code, text = k.unwrap(alices.Token)
			if works := code == 200; works == (c.revoke == 204) {
				t.Errorf("after revoking, unwrap answers %d %s", code, text)
			}
			for _, gone := range []string{accessor, `{"accessor":"nothing"}`} {
				code, text = k.ask("PUT", "auth/token/lookup-accessor", gone, "X-Vault-Token", tok)
				k.wantCode(403, code, text)
			}
		})
	}
}

func TestARolesLimitsLowerTheServersAndDoNotRaiseThem(t *testing.T) {
	k := newKMS(t, Config{MaxTTL: time.Hour, MaxTokens: 5})
	k.setRole(Role{Name: "small", May: []string{MayWrap}, MaxTTL: time.Minute, MaxTokens: 2}, false)
	k.setRole(Role{Name: "large", May: []string{MayWrap}, MaxTTL: 24 * time.Hour, MaxTokens: 100}, false)
	for _, c := range []struct {
		role string
		ttl  int64
		n    int
	}{{"small", 60, 2}, {"large", 3600, 5}} {
		tok := k.userOf("u-"+c.role, c.role)
		for range c.n {
			if w := k.wrapOK(tok, `{"a":"b"}`, "48h"); w.TTL != c.ttl {
				t.Errorf("%s: TTL %d, want %d", c.role, w.TTL, c.ttl)
			}
		}
		code, text := k.ask("PUT", "sys/wrapping/wrap", `{"a":"b"}`, "X-Vault-Token", tok, "X-Vault-Wrap-TTL", "60")
		if code != 429 || !strings.Contains(text, tooManyTokens) {
			t.Errorf("%s: one token too many: %d %s", c.role, code, text)
		}
	}
}

func TestARolesRateHoldsBackEachUserByThemselves(t *testing.T) {
	k := newKMS(t, Config{})
	k.setRole(Role{Name: "slow", May: []string{MayWrap}, Rate: 3}, false)
	one, two := k.userOf("one", "slow"), k.userOf("two", "slow")
	wrap := func(tok string) int {
		code, _ := k.ask("PUT", "sys/wrapping/wrap", `{"a":"b"}`, "X-Vault-Token", tok, "X-Vault-Wrap-TTL", "60")
		return code
	}
	for range 3 {
		k.wantCode(200, wrap(one), "")
	}
	k.wantCode(429, wrap(one), "")
	k.wantCode(200, wrap(two), "")
	k.clock = k.clock.Add(20 * time.Second)
	k.wantCode(200, wrap(one), "")
	k.wantCode(429, wrap(one), "")
}

func TestARoleThatChangesOrIsGoneCountsAtOnceForLoginsToo(t *testing.T) {
	k := newKMS(t, Config{})
	k.setRole(Role{Name: "own", May: []string{MayWrap}}, false)
	k.userOf("bob", "own")
	if err := k.state().SetPassword("bob", secret.New([]byte("correct horse battery"))); err != nil {
		t.Fatal(err)
	}
	code, text := k.ask("PUT", "auth/userpass/login/bob", `{"password":"correct horse battery"}`)
	_, after, _ := strings.Cut(text, `"client_token":"`)
	tok, _, _ := strings.Cut(after, `"`)
	if code != 200 || !strings.Contains(text, `"policies":["own"]`) {
		t.Fatalf("login: %d %s", code, text)
	}
	k.wrapOK(tok, `{"a":"b"}`, "60")
	may := func(want int) {
		t.Helper()
		code, text := k.ask("PUT", "sys/wrapping/wrap", `{"a":"b"}`, "X-Vault-Token", tok, "X-Vault-Wrap-TTL", "60")
		k.wantCode(want, code, text)
	}
	k.setRole(Role{Name: "own", May: []string{MayList}}, true)
	may(403)
	if err := k.state().SetUserRole("bob", DefaultRole); err != nil {
		t.Fatal(err)
	}
	may(200)
	if err := k.state().SetUserRole("bob", "own"); err != nil {
		t.Fatal(err)
	}
	if err := k.state().RemoveRole("own"); !errors.Is(err, ErrRoleInUse) {
		t.Errorf("removing a role in use: %v", err)
	}
	// Whoever takes the file away, or puts another role's in its place,
	// gives no right by it.
	file := filepath.Join(k.dir, k.users.roleFile("own"))
	k.setRole(Role{Name: "wide", May: []string{MayWrap}}, false)
	wide, err := os.ReadFile(filepath.Join(k.dir, k.users.roleFile("wide")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, wide, 0o600); err != nil {
		t.Fatal(err)
	}
	may(500)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	may(403)
}

func TestRolesThatCannotBeAreRefusedAndBuiltInOnesStay(t *testing.T) {
	k := newKMS(t, Config{})
	for _, r := range []Role{
		{Name: "x"},
		{Name: "X", May: []string{MayWrap}},
		{Name: "../x", May: []string{MayWrap}},
		{Name: "x", May: []string{"unwrap"}},
		{Name: "x", May: []string{MayWrap, MayWrap}},
		{Name: "x", May: []string{MayWrap}, MaxTTL: -1},
		{Name: "x", May: []string{MayWrap}, MaxTTL: time.Second / 2},
		{Name: "x", May: []string{MayWrap}, MaxTokens: -1},
		{Name: "x", May: []string{MayWrap}, Rate: maxRate + 1},
	} {
		if err := k.state().SetRole(r, false); err == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	for _, replace := range []bool{false, true} {
		if err := k.state().SetRole(Role{Name: "auditor", May: []string{MayRevoke}}, replace); !errors.Is(err, ErrRoleExists) {
			t.Errorf("a built-in role was set: %v", err)
		}
	}
	if err := k.state().RemoveRole("auditor"); !errors.Is(err, ErrUnknownRole) {
		t.Errorf("a built-in role was removed: %v", err)
	}
	if err := k.state().SetRole(Role{Name: "x", May: []string{MayWrap}}, true); !errors.Is(err, ErrUnknownRole) {
		t.Errorf("a role that is not there was replaced: %v", err)
	}
	if _, err := k.state().AddUser("bob", "x"); !errors.Is(err, ErrUnknownRole) {
		t.Errorf("a user of an unknown role: %v", err)
	}
}

func TestABackupHasTheRolesAndTheStateHidesTheirNames(t *testing.T) {
	k := newKMS(t, Config{})
	k.setRole(Role{Name: "canaryrole", May: []string{MayWrap}, Rate: 7}, false)
	k.userOf("bob", "canaryrole")
	var b bytes.Buffer
	if err := k.state().Backup(&b); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("canaryrole")) {
		t.Error("the backup names a role")
	}
	back := State{filepath.Join(t.TempDir(), "back"), k.key}
	if err := back.Restore(&b); err != nil {
		t.Fatal(err)
	}
	roles, err := back.Roles()
	if last := roles[len(roles)-1]; err != nil || last.Name != "canaryrole" || last.Rate != 7 {
		t.Errorf("restored roles %+v, %v", roles, err)
	}
	users, err := back.Users()
	if err != nil || len(users) != 2 || users[1].Role != "canaryrole" {
		t.Errorf("restored users %+v, %v", users, err)
	}
}

func TestAStateOfBeforeThereWereRolesWorks(t *testing.T) {
	k := newKMS(t, Config{})
	if err := os.Remove(filepath.Join(k.dir, rolesDir)); err != nil {
		t.Fatal(err)
	}
	file, err := k.users.fileOf("alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.users.write(file, []byte(`{"name":"alice","created":"2026-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	k.wrapOK(k.user, `{"a":"b"}`, "60")
	if err := k.state().Backup(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	k.setRole(Role{Name: "x", May: []string{MayWrap}}, false)
	if _, err := os.Stat(filepath.Join(k.dir, rolesDir)); errors.Is(err, fs.ErrNotExist) {
		t.Error("no directory for roles was made")
	}
}
