package lockdown

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/policy"
)

// Doors are the ways into a node: systemd units that let people or timers
// start processes, and the logins that came through them. Needs root on the
// system bus.
type Doors struct {
	// Units to stop and mask; a template ("getty@.service") stands for all of
	// its instances. User managers are always among them.
	Units []string
	// KeepConsole spares root's sessions on a seat: the policy leaves a
	// console to log in at.
	KeepConsole bool
}

// DoorsFromPolicy is what a node's policy says about doors.
func DoorsFromPolicy(p *policy.Policy) Doors {
	return Doors{Units: p.Doors.Units, KeepConsole: p.Doors.HasConsole()}
}

// userManager is what logind starts for each user who logs in, and at boot for
// those who linger.
const userManager = "user@.service"

// A DoorState is what the doors were before they were closed. It goes into
// the caller's journal before Close, so that Open after a crash at any moment
// restores that and no more.
type DoorState struct {
	Units []UnitState `json:"units"`
}

// A UnitState is one door as it was.
type UnitState struct {
	Name    string   `json:"name"`              // as in Doors.Units
	Masked  bool     `json:"masked,omitempty"`  // it was masked: leave it so
	Running []string `json:"running,omitempty"` // it or its instances, to start again
}

// Survey reads what the doors are now and changes nothing. It must not be
// called while they are closed: a session that is taken up again has the state
// in its journal. It fails where Close could not do its work.
func (d Doors) Survey(ctx context.Context) (DoorState, error) {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return DoorState{}, fmt.Errorf("surveying the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	names := d.names()
	files, err := unitFiles(ctx, c, names)
	if err != nil {
		return DoorState{}, fmt.Errorf("surveying the doors: %w", err)
	}
	running, err := runningUnits(ctx, c, names)
	if err != nil {
		return DoorState{}, fmt.Errorf("surveying the doors: %w", err)
	}
	var s DoorState
	seen := map[string]bool{} // ssh.service and its alias sshd.service are one
	for _, name := range names {
		u := UnitState{Name: name, Masked: isMasked(files[name])}
		if err := maskable(files[name]); err != nil {
			return DoorState{}, fmt.Errorf("surveying the doors: %s: %w", name, err)
		}
		for _, r := range running[name] {
			if seen[r] {
				continue
			}
			seen[r] = true
			again, err := startsAgain(ctx, c, name, r)
			if err != nil {
				return DoorState{}, fmt.Errorf("surveying the doors: %s: %w", r, err)
			}
			if again {
				u.Running = append(u.Running, r)
			}
		}
		s.Units = append(s.Units, u)
	}
	return s, nil
}

// names are the units to close, user managers included.
func (d Doors) names() []string {
	out := slices.Clone(d.Units)
	if !slices.Contains(out, userManager) {
		out = append(out, userManager)
	}
	if mutant.Removed(mutant.StopSSH) {
		out = slices.DeleteFunc(out, func(n string) bool { return strings.HasPrefix(n, "ssh") })
	}
	return out
}

// Close masks and stops the units of s, which Survey returned, ends the
// logins, and kills what they leave behind. On an error some doors may be
// open and some closed; the caller undoes it by Open.
func (d Doors) Close(ctx context.Context, s DoorState) error {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("closing the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	if names := s.toMask(); len(names) > 0 {
		if _, err := c.MaskUnitFilesContext(ctx, names, true, false); err != nil {
			return fmt.Errorf("closing the doors: masking %s: %w", strings.Join(names, ", "), err)
		}
		if err := c.ReloadContext(ctx); err != nil {
			return fmt.Errorf("closing the doors: making systemd see the masks: %w", err)
		}
	}
	names := d.names()
	if open, err := unmasked(ctx, c, names); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	} else if len(open) > 0 {
		return fmt.Errorf("closing the doors: systemd was asked to mask %s and did not", strings.Join(open, ", "))
	}
	if err := stopUnits(ctx, c, names); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	if err := d.endSessions(ctx); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	if err := d.endLeftBehind(ctx); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	return nil
}

// Open takes away the masks that Close made and starts what ran before. It is
// safe to run twice, and after a Close that came to do nothing or half. It
// tries every unit before it returns an error.
func (d Doors) Open(ctx context.Context, s DoorState) error {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("opening the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	if names := s.toMask(); len(names) > 0 {
		if _, err := c.UnmaskUnitFilesContext(ctx, names, true); err != nil {
			return fmt.Errorf("opening the doors: unmasking %s: %w", strings.Join(names, ", "), err)
		}
		if err := c.ReloadContext(ctx); err != nil {
			return fmt.Errorf("opening the doors: making systemd see the units: %w", err)
		}
	}
	var failed []error
	for _, u := range s.Units {
		for _, r := range u.Running {
			if err := startUnit(ctx, c, r); err != nil {
				failed = append(failed, fmt.Errorf("opening the doors: %w", err))
			}
		}
	}
	return errors.Join(failed...)
}

// Check names the doors that are open although Close closed them: units that
// run again or whose mask is gone. None means that all is shut.
func (d Doors) Check(ctx context.Context) ([]string, error) {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("checking the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	names := d.names()
	bare, err := unmasked(ctx, c, names)
	if err != nil {
		return nil, fmt.Errorf("checking the doors: %w", err)
	}
	running, err := runningUnits(ctx, c, names)
	if err != nil {
		return nil, fmt.Errorf("checking the doors: %w", err)
	}
	var open []string
	for _, n := range names {
		for _, r := range running[n] {
			open = append(open, r+" runs")
		}
		if slices.Contains(bare, n) {
			open = append(open, n+" is not masked")
		}
	}
	return open, nil
}

func (s DoorState) toMask() (out []string) {
	for _, u := range s.Units {
		if !u.Masked {
			out = append(out, u.Name)
		}
	}
	return out
}

// unitFiles finds the file of each unit; one that has none is missing.
func unitFiles(ctx context.Context, c *systemd.Conn, names []string) (map[string]systemd.UnitFile, error) {
	list, err := c.ListUnitFilesByPatternsContext(ctx, nil, names)
	if err != nil {
		return nil, fmt.Errorf("listing unit files: %w", err)
	}
	files := map[string]systemd.UnitFile{}
	for _, f := range list {
		files[path.Base(f.Path)] = f
	}
	return files, nil
}

// unmasked lists the units that could be started. A template has no load state
// of its own, only a file.
func unmasked(ctx context.Context, c *systemd.Conn, names []string) ([]string, error) {
	files, err := unitFiles(ctx, c, names)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if strings.Contains(n, "@.") {
			if !isMasked(files[n]) {
				out = append(out, n)
			}
			continue
		}
		list, err := c.ListUnitsByNamesContext(ctx, []string{n})
		if err != nil {
			return nil, fmt.Errorf("listing the state of %s: %w", n, err)
		}
		if len(list) != 1 || list[0].LoadState != "masked" {
			out = append(out, n)
		}
	}
	return out, nil
}

// isMasked: systemd's states are masked and masked-runtime.
func isMasked(f systemd.UnitFile) bool { return strings.HasPrefix(f.Type, "masked") }

// isAlias is another name of a unit. Debian's /etc/systemd/system/sshd.service
// points to ssh.service, and what it points to is masked by its own name.
func isAlias(f systemd.UnitFile) bool { return f.Type == "alias" }

// maskable refuses a unit that a run-time mask would not stop: systemd looks
// into /etc/systemd/system before /run/systemd/system (systemd.unit(5)).
func maskable(f systemd.UnitFile) error {
	if !isMasked(f) && !isAlias(f) && path.Dir(f.Path) == "/etc/systemd/system" {
		return fmt.Errorf("%s would win against a run-time mask: move the file to /usr/local/lib/systemd/system", f.Path)
	}
	return nil
}

// notDown are the states in which a unit has, or may get, processes.
var notDown = []string{"active", "activating", "reloading", "refreshing", "deactivating"}

// runningUnits lists, under the name by which each was asked for, the units
// that are not down.
func runningUnits(ctx context.Context, c *systemd.Conn, names []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, name := range names {
		var list []systemd.UnitStatus
		var err error
		if before, after, ok := strings.Cut(name, "@."); ok {
			list, err = c.ListUnitsByPatternsContext(ctx, notDown, []string{before + "@*." + after})
		} else {
			list, err = c.ListUnitsByNamesContext(ctx, []string{name})
		}
		if err != nil {
			return nil, fmt.Errorf("listing the state of %s: %w", name, err)
		}
		for _, u := range list {
			if slices.Contains(notDown, u.ActiveState) {
				out[name] = append(out[name], u.Name)
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
		list, err := c.ListUnitsByNamesContext(ctx, []string{unit})
		if err != nil {
			return fmt.Errorf("starting %s: %w", unit, err)
		}
		if len(list) == 1 {
			switch list[0].ActiveState {
			case "active", "reloading":
				return nil
			case "failed":
				return fmt.Errorf("starting %s: it failed", unit)
			}
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
