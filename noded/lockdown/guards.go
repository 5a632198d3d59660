package lockdown

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// A guard is a drop-in for a door's unit that lets it start only while
// closedFile does not exist. It is put in place once, when noded starts: then
// closing and opening the doors is making and removing that file, and systemd
// need not read its units anew (daemon-reload), which takes an emulated guest
// more than a second, and a busy node long enough to be felt.
//
// systemd checks an assertion whenever it is about to start the unit, whoever
// asked for it and by whatever name (systemd.unit(5), AssertPathExists=).
// Unlike a mask it also stops units that lie in /etc/systemd/system.
const guardName = "50-cloister.conf"

// Variables for tests.
var (
	// closedFile is on tmpfs: after a boot the doors are open until noded, which
	// is started before them, closes them.
	closedFile = "/run/cloister/doors-closed"
	// runtimeUnits is where systemd looks for what does not outlive a boot.
	runtimeUnits = "/run/systemd/system"
)

func guardText() []byte {
	return []byte("# cloister-noded closes this unit while a secure job has the node.\n[Unit]\nAssertPathExists=!" + closedFile + "\n")
}

// Prepare puts the guards in place, which is most of the work of the first
// Survey. It closes nothing.
func (d Doors) Prepare(ctx context.Context) error {
	if err := d.reached(ctx, func(r *Reached) error { return r.guard(ctx) }); err != nil {
		return fmt.Errorf("guarding the doors: %w", err)
	}
	return nil
}

// guard makes sure that systemd would start no door while closedFile is there.
// It has systemd read its units anew only where it would.
func (r *Reached) guard(ctx context.Context) error {
	changed, err := r.doors.writeGuards()
	if err != nil {
		return err
	}
	look := func() ([]string, error) {
		list, err := statusOf(ctx, r.systemd, probed(r.doors.names()))
		if err != nil {
			return nil, err
		}
		return r.unguarded(ctx, list)
	}
	if !changed {
		if bare, err := look(); err != nil || len(bare) == 0 {
			return err
		}
	}
	if err := r.systemd.ReloadContext(ctx); err != nil {
		return fmt.Errorf("making systemd see the guards: %w", err)
	}
	bare, err := look()
	if err == nil && len(bare) > 0 {
		err = fmt.Errorf("systemd does not heed %s of %s: does another drop-in take its assertions away? (systemctl cat)", guardName, strings.Join(bare, ", "))
	}
	return err
}

// guardsMissing names the doors whose drop-in is not what it must be.
func (d Doors) guardsMissing() (missing []string, err error) {
	for _, name := range d.names() {
		b, err := os.ReadFile(guardFile(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if !bytes.Equal(b, guardText()) {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func guardFile(unit string) string { return filepath.Join(runtimeUnits, unit+".d", guardName) }

// writeGuards reports whether any had to be written.
func (d Doors) writeGuards() (changed bool, err error) {
	missing, err := d.guardsMissing()
	for _, name := range missing {
		file := guardFile(name)
		dir := filepath.Dir(file)
		// noded's umask is for secrets; systemctl cat is for everybody.
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755), os.WriteFile(file, guardText(), 0o644), os.Chmod(file, 0o644)); err != nil {
			return true, err
		}
	}
	return len(missing) > 0, err
}

// probe is the instance of a template by which systemd is asked what it would
// make of one: it reads such a unit from disk for that, and forgets it again.
const probe = "cloister"

// probed is what guard asks systemd about, in the order of names.
func probed(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.Replace(n, "@.", "@"+probe+".", 1)
	}
	return out
}

// unguarded picks the units that systemd would start although closedFile
// exists: those that it has loaded and in which it has no such assertion.
func (r *Reached) unguarded(ctx context.Context, list []systemd.UnitStatus) ([]string, error) {
	var units []string
	for _, u := range list { // ssh.service and its alias sshd.service are one
		if !slices.Contains(cannotStart, u.LoadState) && !slices.Contains(units, u.Name) {
			units = append(units, u.Name)
		}
	}
	heeds, failed := make([]bool, len(units)), make([]error, len(units))
	var all sync.WaitGroup // side by side: the answers take no longer than one
	for i := range units {
		all.Go(func() { heeds[i], failed[i] = isGuarded(ctx, r.systemd, units[i]) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	var bare []string
	for i, u := range units {
		if !heeds[i] {
			bare = append(bare, u)
		}
	}
	return bare, nil
}

// isGuarded reads a unit's assertions as systemd has them: condition, whether
// one of several is enough, whether it is negated, parameter, state
// (org.freedesktop.systemd1(5)).
func isGuarded(ctx context.Context, c *systemd.Conn, unit string) (bool, error) {
	p, err := c.GetUnitPropertyContext(ctx, unit, "Asserts")
	if err != nil {
		return false, fmt.Errorf("reading when %s may start: %w", unit, err)
	}
	all, _ := p.Value.Value().([][]any)
	return slices.ContainsFunc(all, func(a []any) bool {
		return len(a) == 5 && a[0] == "AssertPathExists" && a[1] == false && a[2] == true && a[3] == closedFile
	}), nil
}

// shutGuards makes the file that closes the doors and openGuards takes it away;
// either is safe twice.
func shutGuards() error {
	if err := os.MkdirAll(filepath.Dir(closedFile), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(closedFile, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func openGuards() error {
	if err := os.Remove(closedFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// guardsShut reports whether the file is there.
func guardsShut() (bool, error) {
	_, err := os.Lstat(closedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
