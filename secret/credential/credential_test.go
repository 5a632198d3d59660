package credential

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cloister/secret"
)

func TestAPlainSecretIsForItsOwnerAndNeverOverwritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := Write(t.Context(), file, "key", secret.New([]byte("CANARY"))); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if err := Write(t.Context(), file, "key", secret.New([]byte("other"))); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written again: %v", err)
	}
	if got, err := Read(t.Context(), file, "key"); err != nil || string(got.Reveal()) != "CANARY" {
		t.Errorf("read: %v", err)
	}
	if err := Replace(t.Context(), file, "key", secret.New([]byte("other"))); err != nil {
		t.Error(err)
	}
	if got, err := Read(t.Context(), file, "key"); err != nil || string(got.Reveal()) != "other" {
		t.Errorf("read what replaced it: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), file, "key"); err == nil {
		t.Error("read what others can read")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(file)+"/")
	if _, err := Read(t.Context(), file, "key"); err != nil {
		t.Errorf("as systemd hands it over: %v", err)
	}
}

// fakeTool puts a systemd-creds into the PATH that encrypts by base64 and wants
// the name back that it was given. The real one's result depends on the machine.
func fakeTool(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	const script = `#!/bin/sh
case "$1 $3 $4" in
"encrypt - -") echo "$2"; exec base64 ;;
"decrypt - -") read name; [ "$name" = "$2" ] || { echo "wrong name" >&2; exit 1; }; exec base64 -d ;;
esac
exit 64
`
	if err := os.WriteFile(filepath.Join(dir, "systemd-creds"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestASecretIsEncryptedThroughPipesUnderItsName(t *testing.T) {
	fakeTool(t)
	file := filepath.Join(t.TempDir(), "key"+Suffix)
	if err := Write(t.Context(), file, "key", secret.New([]byte("CANARY"))); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("CANARY")) {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := Read(t.Context(), file, "key"); err != nil || string(got.Reveal()) != "CANARY" {
		t.Errorf("read: %v", err)
	}
	if _, err := Read(t.Context(), file, "another"); err == nil || bytes.Contains([]byte(err.Error()), []byte("CANARY")) {
		t.Errorf("read under another name: %v", err)
	}
}

func TestWithoutTheToolNothingIsLeftBehind(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	file := filepath.Join(t.TempDir(), "key"+Suffix)
	if err := Write(t.Context(), file, "key", secret.New([]byte("CANARY"))); !errors.Is(err, ErrNoTool) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("left a file")
	}
}
