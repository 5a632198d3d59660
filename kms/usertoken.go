package kms

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"cloister/secret"
)

const (
	// TokenFile is the name, in Cloister's own directory, of a file with the
	// user's token for the KMS, of the only cluster that they know. People put it there.
	TokenFile = "kms-token"
	// tokensDir holds one file for each cluster, which `cloister login` writes.
	tokensDir = "kms-tokens"
)

// TokenPath is where the user's token for the KMS of a cluster is kept, in
// home, Cloister's own directory.
func TokenPath(home, cluster string) string { return filepath.Join(home, tokensDir, cluster) }

// ErrNoUserToken: the user has no token anywhere that UserToken looks.
var ErrNoUserToken = errors.New("you have no token for the KMS")

// UserToken finds the researcher's own token for the KMS of a cluster, which is at
// address: where `cloister login` left it, then in the variables BAO_TOKEN and
// VAULT_TOKEN, then in home/kms-token, then where `bao login` and `vault login`
// leave it, ~/.vault-token. home is Cloister's directory. It returns where it
// found the token, for messages. A token file that others can read is refused: it
// is as good as a password.
//
// Who is sent a token can use it, and anybody can write a site file. So a token of
// the tools of OpenBao and Vault counts only if their own variable says that it is
// for this server, and home/kms-token only if the cluster is alone: the only one
// that the user knows. ErrNoUserToken names what was passed over.
func UserToken(home, cluster, address string, alone bool) (token secret.Bytes, source string, err error) {
	var passed []string
	for _, p := range tokenPlaces(home, cluster, address, alone) {
		t, err := p.read(p.source)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if p.unless != "" {
			t.Wipe()
			passed = append(passed, p.source+" was passed over, because "+p.unless+"; ")
			continue
		}
		if err != nil {
			return secret.Bytes{}, "", fmt.Errorf("reading your KMS token: %w", err)
		}
		return t, p.source, nil
	}
	next := "log in with cloister login"
	if !alone {
		next += " --site " + cluster
	} else if passed == nil {
		next += ", or save one from the KMS's administrator as " + filepath.Join(home, TokenFile) + " (mode 0600)"
	}
	return secret.Bytes{}, "", fmt.Errorf("%w: %s%s", ErrNoUserToken, strings.Join(passed, ""), next)
}

// tokenPlace is where a token may be.
type tokenPlace struct {
	source string // variable or file
	read   func(source string) (secret.Bytes, error)
	unless string // why a token from there does not count, with what to do; "" if it does
}

func tokenPlaces(home, cluster, address string, alone bool) []tokenPlace {
	places := []tokenPlace{
		{TokenPath(home, cluster), ReadToken, ""},
		{"BAO_TOKEN", tokenVariable, notFor(address, "BAO_ADDR")},
		{"VAULT_TOKEN", tokenVariable, notFor(address, "VAULT_ADDR")},
	}
	own := tokenPlace{filepath.Join(home, TokenFile), ReadToken, ""}
	if !alone {
		own.unless = fmt.Sprintf("you have site files of several clusters: if it is for %s, cloister login --site %s --method token <%s", address, cluster, own.source)
	}
	places = append(places, own)
	if dir, err := os.UserHomeDir(); err == nil {
		places = append(places, tokenPlace{filepath.Join(dir, ".vault-token"), ReadToken, notForEither(address)})
	}
	return places
}

// notFor says why a token that belongs to the server in the variable name is not
// for the one at address, "" if it is.
func notFor(address, name string) string {
	v := os.Getenv(name)
	if sameServer(v, address) {
		return ""
	}
	is := "is not set"
	if v != "" {
		is = "names another server"
	}
	return fmt.Sprintf("%s %s: if it is for %s, set %[1]s=%[3]s", name, is, address)
}

// notForEither is for a file that both tools write: what either says must fit.
func notForEither(address string) string {
	if os.Getenv("BAO_ADDR") == "" {
		return notFor(address, "VAULT_ADDR")
	}
	why := notFor(address, "BAO_ADDR")
	if why == "" && os.Getenv("VAULT_ADDR") != "" {
		why = notFor(address, "VAULT_ADDR")
	}
	return why
}

// sameServer compares the scheme, host and port of two addresses, of which people
// may have written one.
func sameServer(a, b string) bool {
	x, err := url.Parse(a)
	if err != nil || x.Hostname() == "" {
		return false
	}
	y, err := url.Parse(b)
	return err == nil && x.Scheme == y.Scheme && strings.EqualFold(x.Hostname(), y.Hostname()) && port(x) == port(y)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" || u.Scheme != "https" {
		return p
	}
	return "443"
}

// tokenVariable reads a variable with a token; an empty one is not there.
func tokenVariable(name string) (secret.Bytes, error) {
	v := os.Getenv(name)
	if v == "" {
		return secret.Bytes{}, fs.ErrNotExist
	}
	t := secret.New([]byte(v))
	if err := checkToken(t); err != nil {
		t.Wipe()
		return secret.Bytes{}, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// ReadToken reads a file with a user's token, which only its owner may read.
func ReadToken(path string) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, err
	}
	if !st.Mode().IsRegular() {
		return secret.Bytes{}, fmt.Errorf("%s is not a file", path)
	}
	// Windows has no such mode bits: there the profile directory's ACL counts.
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		return secret.Bytes{}, fmt.Errorf("%s can be read by others: chmod 600 %s, and if the machine is shared get a new token", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	defer clear(b)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading %s: %w", path, err)
	}
	t := secret.New(bytes.Clone(bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))))
	if err := checkToken(t); err != nil {
		t.Wipe()
		return secret.Bytes{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
