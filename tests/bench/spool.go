package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A spool is all slurmd's spool directories, which show when a step's slurmstepd
// lives: there are job00012 for a batch step and a socket n1_12.0 for every
// step, and both go away at its end.
type spool struct {
	events chan event
}

type event struct {
	name string
	made bool
	at   time.Time
}

func watchSpool(dirs []string) (*spool, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching slurmd's spool directories: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE); err != nil {
			f.Close()
			return nil, fmt.Errorf("watching %s: %w", dir, err)
		}
	}
	s := &spool{make(chan event, 1024)}
	go func() {
		defer f.Close()
		defer close(s.events)
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			at := time.Now()
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
				end := unix.SizeofInotifyEvent + int(e.Len)
				name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
				if isStep(name) {
					s.events <- event{name, e.Mask&unix.IN_CREATE != 0, at}
				}
				b = b[end:]
			}
		}
	}()
	return s, nil
}

// A step's name goes with its node's: n1_12.0.
func isStep(name string) bool {
	return strings.HasPrefix(name, "job") || strings.HasPrefix(name, "n") && strings.Contains(name, "_")
}

// stepWait is how long a step may take to begin and to end.
const stepWait = 20 * time.Second

// step waits for the next step's end and returns the seconds from its first
// trace in the spool directory to its last.
func (s *spool) step(ctx context.Context) (float64, error) {
	late := time.NewTimer(stepWait)
	defer late.Stop()
	var first time.Time
	there := map[string]bool{}
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				return 0, errors.New("watching slurmd's spool directory: no more events")
			}
			if first.IsZero() {
				first = e.at
			}
			if e.made {
				there[e.name] = true
				continue
			}
			delete(there, e.name)
			if len(there) == 0 {
				return e.at.Sub(first).Seconds(), nil
			}
		case <-late.C:
			return 0, fmt.Errorf("waiting %s for a step's end: still there: %v", stepWait, there)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
