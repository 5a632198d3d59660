package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"cloister/noded/devicemapper"
)

const (
	// busyWait is how long Close lets the kernel finish unmounting: the last
	// reference to a mount namespace is dropped in the background.
	busyWait = 10 * time.Second
	busyPoll = 10 * time.Millisecond
	// leaveTries is how often the counting of a closing is tried, within busyWait.
	leaveTries = 3
)

type closeRequest struct {
	Names []string `json:"names"`
}

// closeReply: Forced lists the devices that were in use.
type closeReply struct {
	Forced  []string      `json:"forced"`
	Flushed time.Duration `json:"flushed"` // of it all, what storing the volumes' own data took
}

func closeNames(ctx context.Context, names []string) (flushed time.Duration, err error) {
	var reply closeReply
	if _, err := verbClose.Run(ctx, nil, closeRequest{names}, nil, &reply); err != nil {
		return 0, err
	}
	if len(reply.Forced) > 0 {
		return reply.Flushed, fmt.Errorf("%w: %q", ErrBusy, reply.Forced)
	}
	return reply.Flushed, nil
}

// What follows runs in the helper process.

func handleClose(body []byte, _ []*os.File) (any, []*os.File, error) {
	var r closeRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	var reply closeReply
	var failed []error
	until := time.Now().Add(busyWait)
	for _, n := range r.Names {
		forced, flushed, err := closeDevice(n, until)
		reply.Flushed += flushed
		if err != nil {
			failed = append(failed, err)
		}
		if forced {
			reply.Forced = append(reply.Forced, n)
		}
	}
	return reply, nil, errors.Join(failed...)
}

// closeDevice removes one mapping, by force if it is in use when the time is up.
// While the kernel unmounts the file system it stores what is left of it.
func closeDevice(name string, until time.Time) (forced bool, flushed time.Duration, err error) {
	for began := time.Now(); ; {
		state, err := devicemapper.State(name)
		if err != nil || state == devicemapper.Inactive {
			return false, flushed, err
		}
		if state != devicemapper.Busy {
			// A closing that cannot be counted must not keep the key in the kernel: the
			// owner's client says that the volume was not closed.
			for range leaveTries {
				if leave(name) == nil || time.Now().After(until) {
					break
				}
			}
			flush(name)
			// A dm-integrity that ends puts to its place what is in its journal.
			err = devicemapper.Close(name)
			flushed = time.Since(began)
			if err == nil || errors.Is(err, devicemapper.ErrNotActive) {
				return false, flushed, nil
			}
			if !errors.Is(err, devicemapper.ErrBusy) {
				break
			}
		}
		if time.Now().After(until) {
			break
		}
		time.Sleep(busyPoll)
	}
	err = devicemapper.ForceClose(name)
	switch {
	case err == nil, errors.Is(err, devicemapper.ErrBusy):
		return true, flushed, nil
	case errors.Is(err, devicemapper.ErrNotActive):
		return false, flushed, nil
	}
	return false, flushed, err
}

// flush sends a cache flush down to the backing file (ext4's last super block
// write need not have carried one). A failure is the file server's to report:
// the data is as safe as it can be made from here.
func flush(name string) {
	path, err := devicemapper.Path(name)
	if err != nil {
		return // gone, or still unfinished: nothing was written to it
	}
	if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
		f.Sync()
		f.Close()
	}
}
