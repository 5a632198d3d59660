// Package account looks a user up in the node's own user database. What the
// controller sends about a user (groups, home, name) counts for nothing: an
// added group such as disk reads every block device.
package account

import (
	"fmt"
	"math"
	"os/user"
	"path"
	"slices"
	"strconv"
)

// An Account is a user as this node knows it.
type Account struct {
	UID, GID uint32
	Groups   []uint32 // supplementary ones, the primary included
	Name     string
	Home     string // absolute
}

// FirstUID is the lowest uid that belongs to a person and not to the system,
// UID_MIN of login.defs(5) on Debian.
const FirstUID = 1000

// Lookup finds a person's account. System users are refused.
func Lookup(uid uint32) (Account, error) {
	if uid < FirstUID || uid == math.MaxUint32 {
		return Account{}, fmt.Errorf("user id %d belongs to the system", uid)
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return Account{}, fmt.Errorf("user id %d is not in this node's user database: %w", uid, err)
	}
	gid, err := id(u.Gid)
	if err != nil {
		return Account{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	a := Account{UID: uid, GID: gid, Name: u.Username, Home: path.Clean(u.HomeDir)}
	if !path.IsAbs(a.Home) {
		return Account{}, fmt.Errorf("user %s: home %q is not an absolute path", a.Name, u.HomeDir)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("listing the groups of user %s: %w", a.Name, err)
	}
	for _, s := range groups {
		g, err := id(s)
		if err != nil {
			return Account{}, fmt.Errorf("user %s: %w", a.Name, err)
		}
		a.Groups = append(a.Groups, g)
	}
	return a, nil
}

// Check refuses ids that Slurm would give the job and the node would not.
func (a Account) Check(gid uint32, groups []uint32) error {
	if gid != a.GID && !slices.Contains(a.Groups, gid) {
		return fmt.Errorf("user %s gets the group %d from Slurm and not from this node's user database", a.Name, gid)
	}
	for _, g := range groups {
		if g != a.GID && !slices.Contains(a.Groups, g) {
			return fmt.Errorf("user %s gets the group %d from Slurm and not from this node's user database", a.Name, g)
		}
	}
	return nil
}

func id(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("group id %q: %w", s, err)
	}
	return uint32(n), nil
}
