package lockdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
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
	if mutant.Removed(mutant.EndLogins) {
		out = slices.DeleteFunc(out, func(n string) bool { return n == userManager })
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
	return d.close(ctx, s.toMask())
}

func (d Doors) close(ctx context.Context, mask []string) error {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("closing the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	if len(mask) > 0 {
		if _, err := c.MaskUnitFilesContext(ctx, mask, true, false); err != nil {
			return fmt.Errorf("closing the doors: masking %s: %w", strings.Join(mask, ", "), err)
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
//
// A bus that starts anew is waited for: its end may be why the doors are to be
// opened.
func (d Doors) Open(ctx context.Context, s DoorState) error {
	for began := time.Now(); ; {
		err := d.open(ctx, s)
		if !isWithoutBus(err) || time.Since(began) > busPatience || pause(ctx) != nil {
			return err
		}
	}
}

// busPatience is how long a bus may take to start anew and systemd to join it.
var busPatience = 10 * time.Second

// isWithoutBus: the bus is away, or says itself that systemd is not on it.
func isWithoutBus(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.") ||
		errors.Is(err, dbus.ErrClosed) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.EOF)
}

func (d Doors) open(ctx context.Context, s DoorState) error {
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
	open, _, err := d.inspect(ctx)
	return open, err
}

// inspect is Check, with the names of the units that have no mask.
func (d Doors) inspect(ctx context.Context) (open, bare []string, err error) {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("checking the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	names := d.names()
	if bare, err = unmasked(ctx, c, names); err != nil {
		return nil, nil, fmt.Errorf("checking the doors: %w", err)
	}
	running, err := runningUnits(ctx, c, names)
	if err != nil {
		return nil, nil, fmt.Errorf("checking the doors: %w", err)
	}
	for _, n := range names {
		for _, r := range running[n] {
			open = append(open, r+" runs")
		}
		if slices.Contains(bare, n) {
			open = append(open, n+" is not masked")
		}
	}
	return open, bare, nil
}

func (s DoorState) toMask() (out []string) {
	for _, u := range s.Units {
		if !u.Masked {
			out = append(out, u.Name)
		}
	}
	return out
}
