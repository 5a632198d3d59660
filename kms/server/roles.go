package server

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A role says what its users may do, and how much of it. Everybody may look
// up, renew and revoke their own token, and revoke what they wrapped.
//
// Roles live in files of their own, as users do, and are read at each request:
// a changed one counts from the next request on.

// What a role may allow.
const (
	MayWrap   = "wrap"   // wrap job keys: seal jobs
	MayList   = "list"   // list the accessors of unused tokens, and whose they are
	MayRevoke = "revoke" // revoke anybody's unused token by its accessor
)

// DefaultRole is that of a user for whom none was named.
const DefaultRole = "sealer"

// Role is one. A limit of 0 is the server's own; a role can lower those, not
// raise them.
type Role struct {
	Name      string        `json:"name"`
	May       []string      `json:"may"`
	MaxTTL    time.Duration `json:"max_ttl,omitempty"`    // of a token, in nanoseconds
	MaxTokens int           `json:"max_tokens,omitempty"` // unused, a user
	Rate      int           `json:"rate,omitempty"`       // tokens wrapped a minute, a user
}

// builtIn roles are always there and cannot be changed.
var builtIn = []Role{
	{Name: DefaultRole, May: []string{MayWrap}},
	{Name: "auditor", May: []string{MayList}},
	{Name: "operator", May: []string{MayList, MayRevoke}},
}

// Errors of roles.
var (
	ErrUnknownRole = errors.New("there is no role of that name")
	ErrRoleExists  = errors.New("there is a role of that name already")
	ErrRoleInUse   = errors.New("there are users with that role")
)

// errMayNot: the user's role does not allow it.
var errMayNot = errors.New("not allowed by the user's role")

const (
	rolesDir = "roles"
	maxRate  = 1_000_000 // a minute; more is no limit
)

func (r Role) may(what string) bool { return slices.Contains(r.May, what) }

func (r Role) check() error {
	if !userName.MatchString(r.Name) {
		return fmt.Errorf("%q is not a role name (small letters, digits, - and _, at most 32)", r.Name)
	}
	if len(r.May) == 0 {
		return errors.New("it allows nothing")
	}
	for i, m := range r.May {
		if m != MayWrap && m != MayList && m != MayRevoke || slices.Contains(r.May[:i], m) {
			return fmt.Errorf("%q cannot be allowed: name each of %s, %s, %s at most once", m, MayWrap, MayList, MayRevoke)
		}
	}
	if r.MaxTTL < 0 || r.MaxTTL%time.Second != 0 || r.MaxTokens < 0 || r.Rate < 0 || r.Rate > maxRate {
		return fmt.Errorf("limits are whole seconds, and numbers from 1 up (at most %d tokens a minute)", maxRate)
	}
	return nil
}

func findBuiltIn(name string) (Role, bool) {
	i := slices.IndexFunc(builtIn, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return builtIn[i], true
}

func (d userDir) roleFile(name string) string {
	return filepath.Join(rolesDir, hex.EncodeToString(d.key.name("role "+name))+userSuffix)
}

func (d userDir) role(name string) (Role, error) {
	if r, ok := findBuiltIn(name); ok {
		return r, nil
	}
	r, err := d.readRole(d.roleFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Role{}, ErrUnknownRole
	}
	if err == nil && r.Name != name {
		err = fmt.Errorf("the file of role %s is damaged", name)
	}
	return r, err
}

func (d userDir) readRole(file string) (r Role, err error) {
	b, err := d.read(file, maxUserFile)
	if err != nil {
		return Role{}, err
	}
	j := json.NewDecoder(bytes.NewReader(b))
	j.DisallowUnknownFields() // it may be a limit
	if err = j.Decode(&r); err == nil {
		err = r.check()
	}
	if err != nil {
		return Role{}, fmt.Errorf("%s is damaged: %w", filepath.Join(d.dir, file), err)
	}
	return r, nil
}

// Roles lists the built-in ones, then the others by name.
func (s State) Roles() ([]Role, error) {
	fail := func(err error) ([]Role, error) { return nil, fmt.Errorf("listing the KMS's roles: %w", err) }
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	list, err := os.ReadDir(filepath.Join(s.Dir, rolesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // made before there were roles
		return fail(err)
	}
	var own []Role
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), userSuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		r, err := d.readRole(filepath.Join(rolesDir, e.Name()))
		if err != nil {
			return fail(err)
		}
		own = append(own, r)
	}
	slices.SortFunc(own, func(a, b Role) int { return strings.Compare(a.Name, b.Name) })
	return append(slices.Clone(builtIn), own...), nil
}

// SetRole makes a role or, with replace, changes it.
func (s State) SetRole(r Role, replace bool) error {
	fail := func(err error) error { return fmt.Errorf("setting KMS role %s: %w", r.Name, err) }
	if err := r.check(); err != nil {
		return fail(err)
	}
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	err = d.alone(func() error {
		_, fixed := findBuiltIn(r.Name)
		switch _, err := d.role(r.Name); {
		case fixed || err == nil && !replace:
			return ErrRoleExists
		case errors.Is(err, ErrUnknownRole) && replace:
			return err
		case err != nil && !errors.Is(err, ErrUnknownRole):
			return err
		}
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := s.makeRolesDir(); err != nil {
			return err
		}
		return d.write(d.roleFile(r.Name), b)
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// makeRolesDir makes what a state of an older version lacks.
func (s State) makeRolesDir() error {
	if err := os.MkdirAll(filepath.Join(s.Dir, rolesDir), 0o700); err != nil {
		return err
	}
	return chownLike(s.Dir, rolesDir)
}

// RemoveRole removes a role that nobody has.
func (s State) RemoveRole(name string) error {
	fail := func(err error) error { return fmt.Errorf("removing KMS role %s: %w", name, err) }
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	err = d.alone(func() error {
		users, err := s.Users()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(users, func(u User) bool { return u.Role == name }) {
			return ErrRoleInUse
		}
		err = removeIn(s.Dir, d.roleFile(name))
		if errors.Is(err, fs.ErrNotExist) {
			return ErrUnknownRole // also a built-in one: it has no file
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// SetUserRole gives a user another role, from the next request on.
func (s State) SetUserRole(name, role string) error {
	fail := func(err error) error { return fmt.Errorf("giving KMS user %s role %s: %w", name, role, err) }
	d, err := s.users()
	if err != nil {
		return fail(err)
	}
	err = d.alone(func() error {
		if _, err := d.role(role); err != nil {
			return err
		}
		files, err := d.filesOf(name)
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := d.setRole(file, role); err != nil {
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

func (d userDir) setRole(file, role string) error {
	u, err := d.readUser(file)
	if err != nil {
		return err
	}
	u.Role = role
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return d.write(file, b)
}

// rates hold back users by the rate of their role.
type rates struct {
	mu sync.Mutex
	by map[int]*buckets // rate a minute → by user
}

func (r *rates) take(rate int, user string, now time.Time) bool {
	if rate == 0 {
		return true
	}
	r.mu.Lock()
	b := r.by[rate]
	if b == nil {
		if r.by == nil {
			r.by = make(map[int]*buckets)
		}
		b = newBuckets(rate, time.Minute/time.Duration(rate))
		r.by[rate] = b
	}
	r.mu.Unlock()
	return b.take(user, now)
}
