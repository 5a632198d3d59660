package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/devicemapper"
)

const (
	// busyWait is how long the kernel's unmounting may stand still: the last
	// reference to a mount namespace is dropped in the background.
	busyWait = 10 * time.Second
	busyPoll = 10 * time.Millisecond
	// stuckWait is when a closing that stands still is given up, in a system call
	// that waits for a file server too.
	stuckWait = 20 * time.Second
	// leaveTries is how often the counting of a closing is tried, within busyWait.
	leaveTries = 3
)

type closeRequest struct {
	Names []string `json:"names"`
}

// closeReply: Forced lists the devices that were in use.
type closeReply struct {
	Forced  []string      `json:"forced"`
	Adrift  []string      `json:"adrift"`  // that no process had: the key is gone, and nobody can read what is left
	Flushed time.Duration `json:"flushed"` // of it all, what storing the volumes' own data took
}

func closeNames(ctx context.Context, names []string) (Released, error) {
	var reply closeReply
	if _, err := verbClose.Run(ctx, nil, closeRequest{names}, nil, &reply); err != nil {
		return Released{}, err
	}
	if len(reply.Forced) > 0 {
		return Released{Flushed: reply.Flushed}, fmt.Errorf("%w: %q", ErrBusy, reply.Forced)
	}
	return Released{reply.Flushed, reply.Adrift}, nil
}

// What follows runs in the helper process.

func handleClose(body []byte, _ []*os.File) (any, []*os.File, error) {
	var r closeRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	a := newAdvance(r.Names)
	done := make(chan closing, 1)
	go func() {
		done <- closeAll(r.Names, func(name string) (end, time.Duration, error) { return closeDevice(name, a) })
	}()
	for look := time.NewTicker(advanceLook); ; {
		select {
		case c := <-done:
			return c.reply, nil, c.err
		case <-look.C:
			if still := a.stands(); still > stuckWait {
				return nil, nil, fmt.Errorf("closing %q: nothing was stored for %v", left(r.Names), still.Round(time.Second))
			}
		}
	}
}

// left are the mappings that are there still.
func left(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		state, err := devicemapper.State(n)
		return err == nil && state == devicemapper.Inactive
	})
}

type closing struct {
	reply closeReply
	err   error
}

// closeAll closes the volumes side by side: the key of one must not stay in the
// kernel because another's file server is dead.
func closeAll(names []string, closeOne func(name string) (end, time.Duration, error)) closing {
	volumes := byVolume(names)
	ends := make([]closing, len(volumes))
	var all sync.WaitGroup
	for i, layers := range volumes {
		all.Go(func() { ends[i] = closeLayers(layers, closeOne) })
	}
	all.Wait()
	var c closing
	for _, e := range ends {
		c.reply.Forced = append(c.reply.Forced, e.reply.Forced...)
		c.reply.Adrift = append(c.reply.Adrift, e.reply.Adrift...)
		c.reply.Flushed = max(c.reply.Flushed, e.reply.Flushed)
		c.err = errors.Join(c.err, e.err)
	}
	return c
}

// byVolume has the mappings of each volume, in the order of names.
func byVolume(names []string) (volumes [][]string) {
	at := map[device]int{}
	for _, n := range names {
		volume := device{name: n} // of no volume that is known
		if d, ok := parseName(n); ok {
			volume = device{session: d.session, index: d.index}
		}
		i, known := at[volume]
		if !known {
			i = len(volumes)
			at[volume], volumes = i, append(volumes, nil)
		}
		volumes[i] = append(volumes[i], n)
	}
	return volumes
}

// closeLayers closes the mappings of one volume, the upper ones first.
func closeLayers(names []string, closeOne func(name string) (end, time.Duration, error)) (c closing) {
	var failed []error
	for _, n := range names {
		end, flushed, err := closeOne(n)
		c.reply.Flushed += flushed
		if err != nil {
			failed = append(failed, err)
		}
		switch end {
		case forced:
			c.reply.Forced = append(c.reply.Forced, n)
		case adrift:
			c.reply.Adrift = append(c.reply.Adrift, n)
		}
	}
	c.err = errors.Join(failed...)
	return c
}

// An end is how a mapping went.
type end int

const (
	closed end = iota
	forced     // something still had it: its key was taken away, and it goes with its last user
	adrift     // the same, and no process on the node is that user
)

// closeDevice removes one mapping, by force if it is in use when its unmounting
// stands still. While the kernel unmounts the file system it stores what is
// left of it.
func closeDevice(name string, a *advance) (how end, flushed time.Duration, err error) {
	late := func() bool { return a.stands() > busyWait }
	for began := time.Now(); ; {
		state, err := devicemapper.State(name)
		if err != nil || state == devicemapper.Inactive {
			return closed, flushed, err
		}
		if state != devicemapper.Busy {
			// A closing that cannot be counted must not keep the key in the kernel: the
			// owner's client says that the volume was not closed.
			for range leaveTries {
				if leave(name) == nil || late() {
					break
				}
			}
			flush(name)
			// A dm-integrity that ends puts to its place what is in its journal.
			err = devicemapper.Close(name)
			flushed = time.Since(began)
			if err == nil || errors.Is(err, devicemapper.ErrNotActive) {
				return closed, flushed, nil
			}
			if !errors.Is(err, devicemapper.ErrBusy) {
				break
			}
		}
		if late() {
			break
		}
		time.Sleep(busyPoll)
	}
	how, err = force(name)
	return how, flushed, err
}

func force(name string) (end, error) {
	var st unix.Stat_t
	path, err := devicemapper.Path(name)
	if err == nil {
		err = unix.Stat(path, &st)
	}
	known := err == nil
	err = devicemapper.ForceClose(name)
	switch {
	case errors.Is(err, devicemapper.ErrNotActive):
		return closed, nil
	case err != nil && !errors.Is(err, devicemapper.ErrBusy):
		return closed, err
	case err == nil || !known:
		return forced, nil
	}
	if held, err := heldByProcess(st.Rdev); held || err != nil {
		return forced, err
	}
	return adrift, nil
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
