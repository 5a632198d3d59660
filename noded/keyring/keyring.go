// Package keyring empties what a session's user can leave behind in the
// kernel's key retention service (keyrings(7)).
//
// A session keyring ends with its last process. The user's own keyrings do
// not: since Linux 5.3 they hang in the user namespace's register and live on
// without any process of the user, so that her next process on the node, of
// whatever job, could read the keys of a secure one.
//
// It knows nothing of keys in a user namespace of the job: those end with it.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/helper"
)

var verbWipe = helper.Register("keyring-wipe", handleWipe)

// getPersistent is KEYCTL_GET_PERSISTENT of linux/keyctl.h.
const getPersistent = 22

// Wipe takes all keys out of the user keyring, the user session keyring and
// the persistent keyring of a user. It is safe to call twice. Call it when no
// process of the user is left.
func Wipe(ctx context.Context, uid, gid uint32) error {
	if mutant.Removed(mutant.UserKeyring) {
		return nil
	}
	// The keyrings are those of the real uid of who asks.
	if _, err := verbWipe.Run(ctx, &helper.User{UID: uid, GID: gid}, struct{}{}, nil, nil); err != nil {
		return fmt.Errorf("wiping the keyrings of uid %d: %w", uid, err)
	}
	return nil
}

// What follows runs in the helper process, as the user.

func handleWipe([]byte, []*os.File) (any, []*os.File, error) {
	for _, id := range []int{unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
		if err := clear(id); err != nil {
			return nil, nil, err
		}
	}
	// -1 is who asks; the process keyring holds the link that makes it ours.
	id, err := unix.KeyctlInt(getPersistent, -1, unix.KEY_SPEC_PROCESS_KEYRING, 0, 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return struct{}{}, nil, nil // a kernel without CONFIG_PERSISTENT_KEYRINGS
	}
	if err != nil {
		return nil, nil, fmt.Errorf("finding the persistent keyring: %w", err)
	}
	if err := clear(id); err != nil {
		return nil, nil, err
	}
	return struct{}{}, nil, nil
}

func clear(id int) error {
	_, err := unix.KeyctlInt(unix.KEYCTL_CLEAR, id, 0, 0, 0)
	if errors.Is(err, unix.ENOSYS) {
		return nil // a kernel without keyrings
	}
	if err != nil {
		return fmt.Errorf("clearing keyring %d: %w", id, err)
	}
	return nil
}
