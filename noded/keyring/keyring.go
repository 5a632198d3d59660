// Package keyring empties what a session's user can leave behind in the
// kernel's key retention service (keyrings(7)).
//
// A session keyring ends with its last process. The user's own keyrings do
// not: since Linux 5.3 they hang in the user namespace's register and live on
// without any process of the user, so that her next process on the node, of
// whatever job, could read the keys of a secure one.
//
// A user can keep everybody out of a keyring of her own, noded too, until the
// node is booted. That is told, and is no error: else any user could have a node
// taken out of service. The keys in it are then taken away one by one. There
// stay those that she may read by their number but do nothing else with, and
// those that she may not view: their numbers are in no list (/proc/keys).
//
// It knows nothing of keys in a user namespace of the job: those end with it.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/helper"
)

var (
	verbPersistent = helper.Register("keyring-wipe-persistent", handlePersistent)
	verbWipe       = helper.Register("keyring-wipe", handleWipe)
)

// getPersistent is KEYCTL_GET_PERSISTENT of linux/keyctl.h.
const getPersistent = 22

// Wipe takes all keys out of the persistent keyring, the user keyring and the
// user session keyring of a user. It is safe to call twice. Call it when no
// process of the user is left. kept says what the user keeps from being
// emptied, "" if that is nothing.
func Wipe(ctx context.Context, uid, gid uint32) (kept string, err error) {
	if mutant.Removed(mutant.UserKeyring) {
		return "", nil
	}
	// As root, whose quota nobody has used up: a link to it is needed. First, for
	// its keys count for the user's.
	_, persistent := verbPersistent.Run(ctx, nil, uid, nil, nil)
	// The other two are those of the real uid of who asks.
	_, own := verbWipe.Run(ctx, &helper.User{UID: uid, GID: gid}, struct{}{}, nil, &kept)
	if err := errors.Join(persistent, own); err != nil {
		return kept, fmt.Errorf("wiping the keyrings of uid %d: %w", uid, err)
	}
	return kept, nil
}

// What follows runs in the helper processes.

func handlePersistent(request []byte, _ []*os.File) (any, []*os.File, error) {
	uid, err := strconv.Atoi(string(request))
	if err != nil {
		return nil, nil, err
	}
	// The process keyring holds the link that makes it ours.
	id, err := unix.KeyctlInt(getPersistent, uid, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return struct{}{}, nil, nil // a kernel without CONFIG_PERSISTENT_KEYRINGS
	}
	if err != nil {
		return nil, nil, fmt.Errorf("finding the persistent keyring: %w", err)
	}
	return struct{}{}, nil, clear("persistent", id)
}

// What the kernel drops, it drops in the background: keys of processes that
// ended just now, which still count for the quota, and keys made invalid.
const (
	tries = 5
	pause = 100 * time.Millisecond
)

func handleWipe([]byte, []*os.File) (any, []*os.File, error) {
	for try := 1; ; try++ {
		kept, err := clearOwn()
		if err != nil || kept == nil {
			return "", nil, err
		}
		if try == tries {
			return strings.ReplaceAll(kept.Error(), "\n", "; "), nil, nil
		}
		takeAway()
		time.Sleep(pause)
	}
}

// own are the keyrings that a user has without having made them.
var own = []struct {
	name string
	id   int
}{{"user", unix.KEY_SPEC_USER_KEYRING}, {"user session", unix.KEY_SPEC_USER_SESSION_KEYRING}}

// herDoing are the errors that a user can bring about with the permissions, the
// revocation and the timeout of a keyring, and with her quota. Linux 6.18 says
// ENOKEY for each of them if it is why a keyring of these can't be looked up.
var herDoing = []unix.Errno{unix.ENOKEY, unix.EACCES, unix.EKEYREVOKED, unix.EKEYEXPIRED, unix.EDQUOT}

// clearOwn tries both, whatever becomes of the first. kept is what is their
// user's doing.
func clearOwn() (kept, err error) {
	for _, ring := range own {
		e := clear(ring.name, ring.id)
		if slices.ContainsFunc(herDoing, func(n unix.Errno) bool { return errors.Is(e, n) }) {
			kept = errors.Join(kept, e)
		} else {
			err = errors.Join(err, e)
		}
	}
	return kept, err
}

func clear(name string, id int) error {
	_, err := unix.KeyctlInt(unix.KEYCTL_CLEAR, id, 0, 0, 0)
	if errors.Is(err, unix.ENOSYS) {
		return nil // a kernel without keyrings
	}
	if err != nil {
		return fmt.Errorf("clearing the %s keyring: %w", name, err)
	}
	return nil
}

// takeAway does what it can against each key and keyring that the user may
// view. A keyring that could be cleared stays: a revoked one would be missed.
func takeAway() {
	var stay []int
	for _, ring := range own {
		if clear(ring.name, ring.id) == nil {
			id, _ := unix.KeyctlGetKeyringID(ring.id, false)
			stay = append(stay, id)
		}
	}
	process, _ := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
	for _, id := range viewable() {
		if id == process || slices.Contains(stay, id) {
			continue
		}
		// Who possesses a key may do more with it.
		_, _ = unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
		if _, err := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0); err != nil {
			_, _ = unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
		}
	}
}

// viewable lists the user's keys in /proc/keys: number, flags, usage, timeout,
// permissions, uid and more (proc_keys(5)).
func viewable() (ids []int) {
	b, _ := os.ReadFile("/proc/keys")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != strconv.Itoa(os.Getuid()) {
			continue
		}
		if id, err := strconv.ParseInt(f[0], 16, 32); err == nil {
			ids = append(ids, int(id))
		}
	}
	return ids
}
