package server

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"cloister/secret"
)

// Users live in files of their own, one each, named by the SHA-256 of the
// user's token. So `user add` takes effect without the running server, which
// holds the database's lock, and revoking a user is removing a file.
type userDir struct {
	dir string
	key *stateKey
}

type user struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Role    string    `json:"role,omitempty"` // empty means DefaultRole
}

func (u user) role() string { return cmp.Or(u.Role, DefaultRole) }

var (
	errNoUser = errors.New("no such user")
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`) // useradd(8)'s default NAME_REGEX
)

const (
	usersDir    = "users"
	userSuffix  = ".json"
	maxUserFile = 4 << 10
)

// ErrUserExists and ErrUnknownUser are AddUser's and RemoveUser's.
var (
	ErrUserExists  = errors.New("there is a user of that name already")
	ErrUnknownUser = errors.New("there is no user of that name")
)

// userFile is relative to the state directory.
func userFile(h tokenHash) string {
	return filepath.Join(usersDir, hex.EncodeToString(h[:])+userSuffix)
}

// read and write a file of the state; its name is authenticated.
func (d userDir) read(file string, limit int64) ([]byte, error) {
	b, err := readLimited(filepath.Join(d.dir, file), limit)
	if err != nil {
		return nil, err
	}
	plain, err := d.key.open(file, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(d.dir, file), err)
	}
	return plain, nil
}

func (d userDir) write(file string, plain []byte) error {
	return writeOwned(d.dir, file, d.key.seal(file, plain), 0o600)
}

func (d userDir) find(h tokenHash) (user, error) {
	u, err := d.readUser(userFile(h))
	if errors.Is(err, fs.ErrNotExist) {
		return user{}, errNoUser
	}
	return u, err
}

func (d userDir) readUser(file string) (u user, err error) {
	b, err := d.read(file, maxUserFile)
	if err != nil {
		return user{}, err
	}
	if err := json.Unmarshal(b, &u); err != nil || !userName.MatchString(u.Name) {
		return user{}, fmt.Errorf("%s is damaged", filepath.Join(d.dir, file))
	}
	return u, nil
}

// entries are the users' files.
func (d userDir) entries() ([]string, error) {
	list, err := os.ReadDir(filepath.Join(d.dir, usersDir))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), userSuffix) && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(usersDir, e.Name()))
		}
	}
	return files, nil
}

func (d userDir) has(name string) (bool, error) {
	_, err := d.fileOf(name)
	if errors.Is(err, ErrUnknownUser) {
		return false, nil
	}
	return err == nil, err
}

// fileOf is the file of the user of that name.
func (d userDir) fileOf(name string) (string, error) {
	files, err := d.filesOf(name)
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// filesOf are all of them: a server that was killed while it retired a token
// left two.
func (d userDir) filesOf(name string) ([]string, error) {
	all, err := d.entries()
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range all {
		u, err := d.readUser(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // just removed
		}
		if err != nil {
			return nil, err
		}
		if u.Name == name {
			files = append(files, f)
		}
	}
	if files == nil {
		return nil, ErrUnknownUser
	}
	return files, nil
}

// named is the user of that name.
func (d userDir) named(name string) (user, error) {
	file, err := d.fileOf(name)
	if errors.Is(err, ErrUnknownUser) {
		return user{}, errNoUser
	}
	if err != nil {
		return user{}, err
	}
	return d.readUser(file)
}

// retire takes a user's own token away and leaves the user.
func (d userDir) retire(h tokenHash) error {
	return d.alone(func() error {
		u, err := d.find(h) // as it is now: a command may have changed it
		if err != nil {
			return err
		}
		b, err := json.Marshal(u)
		if err != nil {
			return err
		}
		if err := d.write(userFile(hashToken(newToken(userTokenPrefix))), b); err != nil {
			return err
		}
		return removeIn(d.dir, userFile(h))
	})
}

// changeTimeout is how long alone waits: a few files that a busy disk syncs.
const changeTimeout = 10 * time.Second

// alone does what reads users, passwords or roles to change them, while no
// command and no server does the same: the lock is that of their directory.
func (d userDir) alone(do func() error) error {
	f, err := os.Open(filepath.Join(d.dir, usersDir))
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(changeTimeout); ; time.Sleep(changeTimeout / 1000) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return do()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(deadline) {
			return fmt.Errorf("waiting for another command that changes users: %w", err)
		}
	}
}

// User is one user that the KMS knows.
type User struct {
	Name     string
	Created  time.Time
	Password bool // whether they can log in
	Role     string
}

// Users lists them by name.
func (s State) Users() ([]User, error) {
	fail := func(err error) ([]User, error) { return nil, fmt.Errorf("listing the KMS's users: %w", err) }
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	files, err := d.entries()
	if err != nil {
		return fail(err)
	}
	var all []User
	for _, f := range files {
		u, err := d.readUser(f)
		if err != nil {
			return fail(err)
		}
		_, err = d.readPassword(u.Name)
		if err != nil && !errors.Is(err, errNoUser) {
			return fail(err)
		}
		all = append(all, User{u.Name, u.Created, err == nil, u.role()})
	}
	slices.SortFunc(all, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// AddUser makes a user of a role and returns the token by which the server will
// know them; it is nowhere else. A running server knows the user at once.
func (s State) AddUser(name, role string) (secret.Bytes, error) {
	fail := func(err error) (secret.Bytes, error) {
		return secret.Bytes{}, fmt.Errorf("adding KMS user %s: %w", name, err)
	}
	if !userName.MatchString(name) {
		return secret.Bytes{}, fmt.Errorf("adding a KMS user: %q is not a user name (small letters, digits, - and _, at most 32)", name)
	}
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	token := newToken(userTokenPrefix)
	err = d.alone(func() error {
		if known, err := d.has(name); err != nil {
			return err
		} else if known {
			return ErrUserExists
		}
		if _, err := d.role(role); err != nil {
			return err
		}
		b, err := json.Marshal(user{Name: name, Created: time.Now().UTC().Truncate(time.Second), Role: role})
		if err != nil {
			return err
		}
		return d.write(userFile(hashToken(token)), b)
	})
	if err != nil {
		return fail(err)
	}
	return secret.New([]byte(token)), nil
}

// RemoveUser makes the user's token, password and logins worthless at once.
// Tokens that the user wrapped before stay good: jobs in the queue go on.
func (s State) RemoveUser(name string) error {
	fail := func(err error) error { return fmt.Errorf("removing KMS user %s: %w", name, err) }
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	err = d.alone(func() error {
		files, err := d.filesOf(name)
		if err != nil {
			return err
		}
		// The password first: whatever happens in between, a user who is gone
		// cannot log in.
		if err := removeIn(d.dir, d.passwordFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, f := range files {
			if err := removeIn(d.dir, f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

func removeIn(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Remove(name)
}
