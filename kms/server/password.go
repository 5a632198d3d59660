package server

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/argon2"

	"cloister/secret"
)

// Passwords live in files of their own, one a user, so that `user passwd`
// takes effect without the running server, as users do.
const (
	passwordsDir    = "passwords"
	maxPasswordFile = 4 << 10
)

// argon2id as RFC 9106, 4, recommends where memory is scarce: 64 MiB, three
// passes, four lanes.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	argonSalt    = 16
	argonHash    = 32
)

const (
	// MinPassword is the shortest password in bytes (NIST SP 800-63B: 8, and
	// more where there is no second factor).
	MinPassword = 12
	// MaxPassword bounds what a login request may bring.
	MaxPassword = 1024
)

// ErrPassword: the password cannot be taken.
var ErrPassword = fmt.Errorf("a password has %d to %d bytes", MinPassword, MaxPassword)

// password is what is stored of one. ID is fresh with each, so that tokens
// given for an older one can be told.
type password struct {
	ID      string    `json:"id"`
	Salt    []byte    `json:"salt"`
	Hash    []byte    `json:"hash"`
	Changed time.Time `json:"changed"`
}

func newPassword(plain secret.Bytes, now time.Time) password {
	var id [16]byte
	rand.Read(id[:])
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	return password{hex.EncodeToString(id[:]), salt, derive(plain.Reveal(), salt), now.UTC().Truncate(time.Second)}
}

func derive(plain, salt []byte) []byte {
	return argon2.IDKey(plain, salt, argonTime, argonMemory, argonThreads, argonHash)
}

func (p password) matches(plain []byte) bool {
	return subtle.ConstantTimeCompare(derive(plain, p.Salt), p.Hash) == 1
}

// passwordFile is named so that who reads the directory's names does not learn
// the users'.
func (d userDir) passwordFile(name string) string {
	return filepath.Join(passwordsDir, hex.EncodeToString(d.key.name(name))+userSuffix)
}

// readPassword returns errNoUser for somebody without one.
func (d userDir) readPassword(name string) (p password, err error) {
	if !userName.MatchString(name) {
		return password{}, errNoUser
	}
	file := d.passwordFile(name)
	b, err := d.read(file, maxPasswordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return password{}, errNoUser
	}
	if err != nil {
		return password{}, err
	}
	if err := json.Unmarshal(b, &p); err != nil || p.ID == "" || len(p.Salt) != argonSalt || len(p.Hash) != argonHash {
		return password{}, fmt.Errorf("%s is damaged", filepath.Join(d.dir, file))
	}
	return p, nil
}

// SetPassword gives a user a password, or another one: what was logged in with
// the old one is logged out at once, also on a running server.
func (s State) SetPassword(name string, plain secret.Bytes) error {
	fail := func(err error) error { return fmt.Errorf("setting the password of KMS user %s: %w", name, err) }
	if plain.Len() < MinPassword || plain.Len() > MaxPassword {
		return fail(ErrPassword)
	}
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	b, err := json.Marshal(newPassword(plain, time.Now()))
	if err != nil {
		return fail(err)
	}
	err = d.alone(func() error {
		if known, err := d.has(name); err != nil {
			return err
		} else if !known {
			return ErrUnknownUser
		}
		if err := d.makeDir(passwordsDir); err != nil {
			return err
		}
		return d.write(d.passwordFile(name), b)
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// makeDir makes a directory of the state that an older version did not.
func (d userDir) makeDir(name string) error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return chownLike(d.dir, name)
}
