package lockdown

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// pattern matches a template's instances.
func pattern(template string) string { return strings.Replace(template, "@.", "@*.", 1) }

// statusOf is one status for each unit, in the same order; of an alias it is
// the status, and the name, of what it stands for.
func statusOf(ctx context.Context, c *systemd.Conn, units []string) ([]systemd.UnitStatus, error) {
	if len(units) == 0 {
		return nil, nil
	}
	list, err := c.ListUnitsByNamesContext(ctx, units)
	if err != nil {
		return nil, fmt.Errorf("listing the state of units: %w", err)
	}
	if len(list) != len(units) {
		return nil, fmt.Errorf("listing the state of units: systemd knows %d of %s", len(list), strings.Join(units, ", "))
	}
	return list, nil
}

// cannotStart are the load states of a unit that systemd will not start,
// whatever guards it.
var cannotStart = []string{"masked", "error", "not-found", "bad-setting"}

// notDown are the states in which a unit has, or may get, processes.
var notDown = []string{"active", "activating", "reloading", "refreshing", "deactivating"}

// loaded lists the units of the doors that systemd has loaded, instances of
// templates among them. Only such a unit runs; asking for others by name would
// have them read from disk.
func (r *Reached) loaded(ctx context.Context) ([]systemd.UnitStatus, error) {
	var patterns []string
	for _, n := range r.doors.names() {
		patterns = append(patterns, pattern(n))
		if to := aliasOf(n); to != "" {
			patterns = append(patterns, pattern(to))
		}
	}
	list, err := r.systemd.ListUnitsByPatternsContext(ctx, nil, patterns)
	if err != nil {
		return nil, fmt.Errorf("listing the state of units: %w", err)
	}
	return list, nil
}

// unitDirs is where systemd finds units' other names, as links; a variable for
// tests.
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}

// aliasOf is the unit that a name stands for, "" if it is the unit's own or of
// none. Debian's /etc/systemd/system/sshd.service points to ssh.service.
func aliasOf(name string) string {
	for _, dir := range unitDirs {
		to, err := os.Readlink(filepath.Join(dir, name))
		if base := path.Base(to); err == nil && to != "/dev/null" && base != name {
			return base
		}
	}
	return ""
}

// running picks the units that are not down.
func running(list []systemd.UnitStatus) (names []string) {
	for _, u := range list {
		if slices.Contains(notDown, u.ActiveState) {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names
}

// startsAgain reports whether a unit that runs is to be started after the
// release. What a socket started for one connection, or a login for one user,
// is not: it ended with that. A user manager that lingers is.
func (r *Reached) startsAgain(ctx context.Context, unit string) (bool, error) {
	if strings.HasPrefix(unit, "user@") {
		return r.lingers(ctx, strings.TrimSuffix(strings.TrimPrefix(unit, "user@"), ".service"))
	}
	if !strings.Contains(unit, "@") {
		return true, nil
	}
	p, err := r.systemd.GetUnitPropertyContext(ctx, unit, "TriggeredBy")
	if err != nil {
		return false, fmt.Errorf("reading what started it: %w", err)
	}
	by, _ := p.Value.Value().([]string)
	return len(by) == 0, nil
}

// patience is how long a unit may take to stop by itself before its processes
// are killed. sshd and cron take milliseconds.
const patience = 3 * time.Second

// pollPause is the time between two looks at the same thing.
const pollPause = 25 * time.Millisecond

// stopUnits stops the units, and those that come up meanwhile, until none
// runs or ctx ends.
func (r *Reached) stopUnits(ctx context.Context) error {
	begun := time.Now()
	asked := map[string]bool{}
	for {
		list, err := r.loaded(ctx)
		if err != nil {
			return err
		}
		left := running(list)
		if len(left) == 0 {
			return nil
		}
		kill := time.Since(begun) > patience
		for _, u := range left {
			if !asked[u] || kill {
				if _, err := r.systemd.StopUnitContext(ctx, u, "replace", nil); err != nil && !isDBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
					return fmt.Errorf("stopping %s: %w", u, err)
				}
				asked[u] = true
			}
			if kill {
				// An error means that nothing is left to kill.
				_ = r.systemd.KillUnitWithTarget(ctx, u, systemd.All, int32(unix.SIGKILL))
			}
		}
		if kill {
			begun = time.Now()
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("stopping %s: %w", strings.Join(left, ", "), err)
		}
	}
}

func startUnit(ctx context.Context, c *systemd.Conn, unit string) error {
	_, err := c.StartUnitContext(ctx, unit, "replace", nil)
	if err != nil && !isDBusError(err, shutsDown) {
		return fmt.Errorf("starting %s: %w", unit, err)
	}
	return nil
}

// shutsDown is what systemd answers to a start when the machine is shutting
// down: the unit is about to be stopped for good.
const shutsDown = "org.freedesktop.systemd1.TransactionIsDestructive"

// awaitUnit waits until a unit that was started runs.
func awaitUnit(ctx context.Context, c *systemd.Conn, unit string) error {
	for {
		list, err := statusOf(ctx, c, []string{unit})
		if err != nil {
			return fmt.Errorf("starting %s: %w", unit, err)
		}
		switch {
		case list[0].ActiveState == "active", list[0].ActiveState == "reloading":
			return nil
		case list[0].ActiveState == "failed":
			return fmt.Errorf("starting %s: it failed", unit)
		case list[0].ActiveState == "inactive" && list[0].JobId == 0:
			return fmt.Errorf("starting %s: it did not start", unit)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("starting %s: %w", unit, err)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollPause):
		return nil
	}
}
