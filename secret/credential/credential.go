// Package credential keeps a service's secret where systemd hands it to the
// service alone (systemd.exec(5), Credentials): in a file for root, or in one
// that systemd-creds has encrypted to this machine, to its TPM where it has
// one. It never writes a secret over a file that is there.
package credential

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister/secret"
)

// Suffix of a file that systemd-creds encrypted, as its documentation has it.
const Suffix = ".cred"

const (
	// directory is where systemd says that it put a service's credentials.
	directory = "CREDENTIALS_DIRECTORY"
	// maxSize is far above what is kept here: identities and keys.
	maxSize = 64 << 10
	// timeout bounds systemd-creds, which may ask a TPM.
	timeout = 30 * time.Second
)

// ErrNoTool: this machine has no systemd-creds (systemd 250 and later).
var ErrNoTool = errors.New("there is no systemd-creds on this machine")

// Write stores a secret in a new file with mode 0600, encrypted under the name
// by which the unit loads it if the file ends in Suffix. Encrypted, it can be
// read on this machine alone: there is no backup of it.
func Write(ctx context.Context, file, name string, s secret.Bytes) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "create", Path: file, Err: cmp.Or(err, fs.ErrExist)}
	}
	return store(ctx, file, name, s, os.Link) // never over a file that came meanwhile
}

// Replace stores a secret as Write does, in place of the one that is there.
func Replace(ctx context.Context, file, name string, s secret.Bytes) error {
	return store(ctx, file, name, s, os.Rename)
}

// store writes a temporary file beside it and has publish give it its name, so
// that there is a whole file or the old one, whatever happens.
func store(ctx context.Context, file, name string, s secret.Bytes, publish func(from, to string) error) error {
	b := s.Reveal()
	if strings.HasSuffix(file, Suffix) {
		sealed, err := run(ctx, s.Reveal(), "encrypt", "--name="+name, "-", "-")
		if err != nil {
			return fmt.Errorf("encrypting %s: %w", file, err)
		}
		defer sealed.Wipe()
		b = sealed.Reveal()
	}
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := publish(f.Name(), file); err != nil {
		return err
	}
	return syncDir(dir)
}

// Read is the contrary of Write. A file that others can read is refused, but for
// those that systemd handed over: it lets the service's user in by an ACL, whose
// mask stands where the group's rights would.
func Read(ctx context.Context, file, name string) (secret.Bytes, error) {
	f, err := os.Open(file)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, err
	}
	if st.Mode().Perm()&0o077 != 0 && (os.Getenv(directory) == "" || filepath.Dir(file) != filepath.Clean(os.Getenv(directory))) {
		return secret.Bytes{}, fmt.Errorf("%s can be read by others: chmod 600 %s", file, file)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	s := secret.New(b)
	switch {
	case err != nil:
		s.Wipe()
		return secret.Bytes{}, fmt.Errorf("reading %s: %w", file, err)
	case s.Len() > maxSize:
		s.Wipe()
		return secret.Bytes{}, fmt.Errorf("%s is larger than %d bytes", file, maxSize)
	case !strings.HasSuffix(file, Suffix):
		return s, nil
	}
	defer s.Wipe()
	plain, err := run(ctx, s.Reveal(), "decrypt", "--name="+name, "-", "-")
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("decrypting %s: %w", file, err)
	}
	return plain, nil
}

// run hands systemd-creds its input through a pipe, never a file or argument.
func run(ctx context.Context, in []byte, args ...string) (secret.Bytes, error) {
	path, err := exec.LookPath("systemd-creds")
	if err != nil {
		return secret.Bytes{}, ErrNoTool
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out, said bytes.Buffer
	out.Grow(maxSize)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &said
	if err := cmd.Run(); err != nil {
		clear(out.Bytes())
		// It says what is wrong with the machine, never what it encrypts.
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return secret.Bytes{}, fmt.Errorf("systemd-creds %s: %w: %.200q", args[0], err, line)
	}
	return secret.New(out.Bytes()), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
