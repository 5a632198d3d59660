package server

import (
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
	"time"

	"cloister/secret"
)

// Users live in files of their own, one each, named by the SHA-256 of the
// user's token. So `user add` takes effect without the running server, which
// holds the database's lock, and revoking a user is removing a file.
type userDir string

type user struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

var (
	errNoUser = errors.New("no such user")
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`) // useradd(8)'s default NAME_REGEX
)

const (
	usersDir    = "users"
	userSuffix  = ".json"
	maxUserFile = 4 << 10
)

// userFile is relative to the state directory.
func userFile(h tokenHash) string {
	return filepath.Join(usersDir, hex.EncodeToString(h[:])+userSuffix)
}

func (d userDir) find(h tokenHash) (user, error) {
	u, err := readUser(filepath.Join(string(d), userFile(h)))
	if errors.Is(err, fs.ErrNotExist) {
		return user{}, errNoUser
	}
	return u, err
}

func readUser(path string) (u user, err error) {
	b, err := readLimited(path, maxUserFile)
	if err != nil {
		return user{}, err
	}
	if err := json.Unmarshal(b, &u); err != nil || !userName.MatchString(u.Name) {
		return user{}, fmt.Errorf("%s is damaged", path)
	}
	return u, nil
}

// User is one user that the KMS knows.
type User struct {
	Name    string
	Created time.Time
}

// Users lists them by name.
func Users(dir string) ([]User, error) {
	entries, err := os.ReadDir(filepath.Join(dir, usersDir))
	if err != nil {
		return nil, fmt.Errorf("listing the KMS's users: %w", err)
	}
	var all []User
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), userSuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		u, err := readUser(filepath.Join(dir, usersDir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("listing the KMS's users: %w", err)
		}
		all = append(all, User(u))
	}
	slices.SortFunc(all, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// AddUser makes a user and returns the token by which the server will know
// them; it is nowhere else. A running server knows the user at once.
func AddUser(dir, name string) (secret.Bytes, error) {
	if !userName.MatchString(name) {
		return secret.Bytes{}, fmt.Errorf("adding a KMS user: %q is not a user name (small letters, digits, - and _, at most 32)", name)
	}
	all, err := Users(dir)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("adding KMS user %s: %w", name, err)
	}
	if slices.ContainsFunc(all, func(u User) bool { return u.Name == name }) {
		return secret.Bytes{}, fmt.Errorf("adding KMS user %s: %w", name, ErrUserExists)
	}
	token := newToken(userTokenPrefix)
	b, err := json.Marshal(user{Name: name, Created: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("adding KMS user %s: %w", name, err)
	}
	if err := writeOwned(dir, userFile(hashToken(token)), b, 0o600); err != nil {
		return secret.Bytes{}, fmt.Errorf("adding KMS user %s: %w", name, err)
	}
	return secret.New([]byte(token)), nil
}

// ErrUserExists and ErrUnknownUser are AddUser's and RemoveUser's.
var (
	ErrUserExists  = errors.New("there is a user of that name already")
	ErrUnknownUser = errors.New("there is no user of that name")
)

// RemoveUser makes the user's token worthless at once. Tokens that the user
// wrapped before stay good: jobs in the queue go on.
func RemoveUser(dir, name string) error {
	entries, err := os.ReadDir(filepath.Join(dir, usersDir))
	if err != nil {
		return fmt.Errorf("removing KMS user %s: %w", name, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, usersDir, e.Name())
		if u, err := readUser(path); err == nil && u.Name == name {
			if err := removeIn(dir, filepath.Join(usersDir, e.Name())); err != nil {
				return fmt.Errorf("removing KMS user %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("removing KMS user %s: %w", name, ErrUnknownUser)
}

func removeIn(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Remove(name)
}
