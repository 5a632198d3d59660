package lockdown

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// sorted parts templates from other units.
func sorted(names []string) (plain, templates []string) {
	for _, n := range names {
		if strings.Contains(n, "@.") {
			templates = append(templates, n)
		} else {
			plain = append(plain, n)
		}
	}
	return plain, templates
}

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

// runningUnits lists, under the name by which each was asked for, the units
// that are not down.
func runningUnits(ctx context.Context, c *systemd.Conn, names []string) (map[string][]string, error) {
	out := map[string][]string{}
	plain, templates := sorted(names)
	list, err := statusOf(ctx, c, plain)
	if err != nil {
		return nil, err
	}
	for i, u := range list {
		if slices.Contains(notDown, u.ActiveState) {
			out[plain[i]] = append(out[plain[i]], u.Name)
		}
	}
	if len(templates) == 0 {
		return out, nil
	}
	var patterns []string
	for _, t := range templates {
		patterns = append(patterns, pattern(t))
	}
	instances, err := c.ListUnitsByPatternsContext(ctx, notDown, patterns)
	if err != nil {
		return nil, fmt.Errorf("listing the instances of %s: %w", strings.Join(templates, ", "), err)
	}
	for _, u := range instances {
		for i, t := range templates {
			if ok, _ := path.Match(patterns[i], u.Name); ok && slices.Contains(notDown, u.ActiveState) {
				out[t] = append(out[t], u.Name)
			}
		}
	}
	return out, nil
}

// startsAgain reports whether a unit that runs is to be started after the
// release. What a socket started for one connection, or a login for one user,
// is not: it ended with that. A user manager that lingers is.
func startsAgain(ctx context.Context, c *systemd.Conn, door, unit string) (bool, error) {
	if door == userManager {
		return lingers(ctx, strings.TrimSuffix(strings.TrimPrefix(unit, "user@"), ".service"))
	}
	if !strings.Contains(unit, "@") {
		return true, nil
	}
	p, err := c.GetUnitPropertyContext(ctx, unit, "TriggeredBy")
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
func stopUnits(ctx context.Context, c *systemd.Conn, names []string) error {
	begun := time.Now()
	asked := map[string]bool{}
	for {
		running, err := runningUnits(ctx, c, names)
		if err != nil {
			return err
		}
		var left []string
		for _, n := range names {
			left = append(left, running[n]...)
		}
		if len(left) == 0 {
			return nil
		}
		kill := time.Since(begun) > patience
		for _, u := range left {
			if !asked[u] || kill {
				if _, err := c.StopUnitContext(ctx, u, "replace", nil); err != nil && !isDBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
					return fmt.Errorf("stopping %s: %w", u, err)
				}
				asked[u] = true
			}
			if kill {
				// An error means that nothing is left to kill.
				_ = c.KillUnitWithTarget(ctx, u, systemd.All, int32(unix.SIGKILL))
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
	if _, err := c.StartUnitContext(ctx, unit, "replace", nil); err != nil {
		return fmt.Errorf("starting %s: %w", unit, err)
	}
	for {
		list, err := statusOf(ctx, c, []string{unit})
		if err != nil {
			return fmt.Errorf("starting %s: %w", unit, err)
		}
		switch list[0].ActiveState {
		case "active", "reloading":
			return nil
		case "failed":
			return fmt.Errorf("starting %s: it failed", unit)
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
