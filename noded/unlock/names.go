package unlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister/noded/devicemapper"
)

// ErrBusy is wrapped by Close's error when something still had a volume open
// at the end of the deadline. The volume's table was replaced by one that
// answers with errors: its key is gone from the kernel, its name goes with the
// last user.
var ErrBusy = errors.New("a volume was still in use; its key was taken away")

// A device is one mapping found on this node.
type device struct {
	name    string
	session string
	index   int
	kind    string
}

// Close closes every volume of the session that it finds, the upper mappings
// first. It needs no memory of what was opened and may be called again. The
// mounts must be gone (descriptors closed, processes of the job view ended);
// it waits a moment for the kernel to notice.
func Close(ctx context.Context, session string) error {
	_, err := Release(ctx, session)
	return err
}

// Released is what there is to say of volumes that were closed.
type Released struct {
	// Flushed is how long of it the volumes' own data took to be stored: that
	// depends on what the job wrote and on the file server.
	Flushed time.Duration
	// Adrift names mappings that were closed by force though no process has anything
	// of them: what was not stored is lost. They go with what holds them, such as a
	// descriptor on its way through a socket whose reader takes its time.
	Adrift []string
}

// Release is Close, and tells more. It takes as long as storing does, up to
// storeDeadline, but gives up when that stands still.
func Release(ctx context.Context, session string) (r Released, err error) {
	if err := validSession(session); err != nil {
		return r, fmt.Errorf("closing volumes: %w", err)
	}
	names, err := List(session)
	if err != nil {
		return r, fmt.Errorf("closing the volumes of session %s: %w", session, err)
	}
	if len(names) == 0 {
		return r, nil
	}
	ctx, cancel := withDeadline(ctx, storeDeadline)
	defer cancel()
	if r, err = closeNames(ctx, names); err != nil {
		return r, fmt.Errorf("closing the volumes of session %s: %w", session, err)
	}
	return r, nil
}

// List names the session's mappings on this node, in the order in which they
// must be closed.
func List(session string) ([]string, error) {
	all, err := devices()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range all {
		if d.session == session {
			names = append(names, d.name)
		}
	}
	return names, nil
}

// Sessions names the sessions that have mappings on this node: a daemon that
// starts finds what its predecessor left.
func Sessions() ([]string, error) {
	all, err := devices()
	if err != nil {
		return nil, err
	}
	var sessions []string
	for _, d := range all {
		if !slices.Contains(sessions, d.session) {
			sessions = append(sessions, d.session)
		}
	}
	return sessions, nil
}

// devices lists Cloister's mappings in the order of kinds.
func devices() ([]device, error) {
	names, err := devicemapper.Names()
	if err != nil {
		return nil, err
	}
	var all []device
	for _, n := range names {
		if d, ok := parseName(n); ok {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b device) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.kind), slices.Index(kinds, b.kind)), cmp.Compare(a.session, b.session), cmp.Compare(a.index, b.index))
	})
	return all, nil
}

func parseName(s string) (device, bool) {
	rest, ok := strings.CutPrefix(s, namePrefix)
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 3 || validSession(parts[0]) != nil || !slices.Contains(kinds, parts[2]) {
		return device{}, false
	}
	index, err := strconv.Atoi(parts[1])
	if err != nil || strconv.Itoa(index) != parts[1] {
		return device{}, false
	}
	return device{s, parts[0], index, parts[2]}, true
}
