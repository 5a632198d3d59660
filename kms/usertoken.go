package kms

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"cloister/secret"
)

const (
	// TokenFile is the name, in Cloister's own directory, of a file with the
	// user's token for the KMS, whatever the cluster. People put it there.
	TokenFile = "kms-token"
	// tokensDir holds one file for each cluster, which `cloister login` writes.
	tokensDir = "kms-tokens"
)

// TokenPath is where the user's token for the KMS of a cluster is kept, in
// home, Cloister's own directory.
func TokenPath(home, cluster string) string { return filepath.Join(home, tokensDir, cluster) }

// ErrNoUserToken: the user has no token anywhere that UserToken looks.
var ErrNoUserToken = errors.New("you have no token for the KMS")

// UserToken finds the researcher's own token for the KMS of a cluster: in the
// variables BAO_TOKEN and VAULT_TOKEN, then where `cloister login` left it, then
// in home/kms-token, then where `bao login` and `vault login` leave it,
// ~/.vault-token. home is Cloister's directory and may be "". It returns where it found the token, for messages. A token file that others
// can read is refused: it is as good as a password.
func UserToken(home, cluster string) (token secret.Bytes, source string, err error) {
	for _, name := range []string{"BAO_TOKEN", "VAULT_TOKEN"} {
		if v := os.Getenv(name); v != "" {
			t := secret.New([]byte(v))
			if err := checkToken(t); err != nil {
				return secret.Bytes{}, "", fmt.Errorf("reading your KMS token from %s: %w", name, err)
			}
			return t, name, nil
		}
	}
	var files []string
	if home != "" {
		files = append(files, TokenPath(home, cluster), filepath.Join(home, TokenFile))
	}
	if dir, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(dir, ".vault-token"))
	}
	for _, path := range files {
		t, err := ReadToken(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return secret.Bytes{}, "", fmt.Errorf("reading your KMS token: %w", err)
		}
		return t, path, nil
	}
	next := "log in with cloister login"
	if home != "" {
		next += ", or save one from the KMS's administrator as " + filepath.Join(home, TokenFile) + " (mode 0600)"
	}
	return secret.Bytes{}, "", fmt.Errorf("%w: %s", ErrNoUserToken, next)
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
