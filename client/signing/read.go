package signing

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"cloister/client/advice"

	"golang.org/x/crypto/ssh"
)

func readKey(path string, ask Asker) (ssh.Signer, error) {
	b, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	defer clear(b)
	s, err := ssh.ParsePrivateKey(b)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		passphrase, err := ask("Passphrase for " + path + ": ")
		if err != nil {
			return nil, err
		}
		defer passphrase.Wipe()
		if s, err = ssh.ParsePrivateKeyWithPassphrase(b, passphrase.Reveal()); err != nil {
			return nil, advice.Refuse("try again with the right passphrase", "the key %s does not open with this passphrase", path)
		}
		return s, nil
	}
	if err != nil && isSecurityKey(path) {
		return nil, advice.Refuse("ssh-add "+path+", and then cloister init --key agent", "%s is of a security key, which signs through an SSH agent", path)
	}
	if err != nil {
		return nil, advice.Refuse("give the private key's file, not the .pub file", "%s is no SSH private key: %w", path, err)
	}
	return s, nil
}

// isSecurityKey looks at the public key beside a private key's file, which for
// a security key holds no more than a handle.
func isSecurityKey(path string) bool {
	b, err := readSmall(path + ".pub")
	return err == nil && bytes.HasPrefix(b, []byte("sk-"))
}

// readPrivate reads a file that is for the owner's eyes only.
func readPrivate(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	// As ssh does; Windows has no such mode bits.
	if runtime.GOOS != "windows" && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		return nil, advice.Refuse("chmod 600 "+path, "%s can be read by others", path)
	}
	return readSmall(path)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, nil
}
