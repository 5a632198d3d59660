package lockdown

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"

	"cloister/mutant"
	"cloister/policy"
)

// The doors of a node are systemd units that let people or timers start
// processes, and the logins that came through them. Closing and opening them
// needs root on the system bus.

// userManager is what logind starts for each user who logs in, and at boot for
// those who linger. It is a door whatever the policy says.
const userManager = "user@.service"

// A State is what the doors were before they were closed. It goes into the
// caller's journal before CloseDoors, so that OpenDoors after a crash at any
// moment restores that and no more.
type State struct {
	Units []UnitState `json:"units"`
	// KeepConsole spares root's logins on a seat: the policy leaves a console
	// to log in at.
	KeepConsole bool `json:"keep_console,omitempty"`
}

// A UnitState is one door as it was.
type UnitState struct {
	Name    string   `json:"name"`              // a template stands for all of its instances
	Masked  bool     `json:"masked,omitempty"`  // it was masked: leave it so
	Running []string `json:"running,omitempty"` // it or its instances, to start again
}

// Survey reads what the policy's doors are now and changes nothing. It must
// not be called while they are closed: a session that is taken up again has
// the state in its journal. It fails where CloseDoors could not do its work.
func Survey(ctx context.Context, d policy.Doors) (State, error) {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return State{}, fmt.Errorf("surveying the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	s, err := survey(ctx, c, doorNames(d.Units))
	if err != nil {
		return State{}, fmt.Errorf("surveying the doors: %w", err)
	}
	s.KeepConsole = d.HasConsole()
	return s, nil
}

func survey(ctx context.Context, c *systemd.Conn, names []string) (s State, err error) {
	files, err := unitFiles(ctx, c, names)
	if err != nil {
		return State{}, err
	}
	running, err := runningUnits(ctx, c, names)
	if err != nil {
		return State{}, err
	}
	seen := map[string]bool{} // ssh.service and its alias sshd.service are one
	for _, name := range names {
		u := UnitState{Name: name, Masked: isMasked(files[name])}
		if err := maskable(files[name]); err != nil {
			return State{}, fmt.Errorf("%s: %w", name, err)
		}
		for _, r := range running[name] {
			if seen[r] {
				continue
			}
			seen[r] = true
			again, err := startsAgain(ctx, c, name, r)
			if err != nil {
				return State{}, fmt.Errorf("%s: %w", r, err)
			}
			if again {
				u.Running = append(u.Running, r)
			}
		}
		s.Units = append(s.Units, u)
	}
	return s, nil
}

// doorNames are the units to close, user managers included.
func doorNames(units []string) []string {
	out := slices.Clone(units)
	if !slices.Contains(out, userManager) {
		out = append(out, userManager)
	}
	if mutant.Removed(mutant.StopSSH) {
		out = slices.DeleteFunc(out, func(n string) bool { return strings.HasPrefix(n, "ssh") })
	}
	return out
}

func (s State) names() (out []string) {
	for _, u := range s.Units {
		out = append(out, u.Name)
	}
	return out
}

// CloseDoors masks and stops the units of s, which Survey returned, ends the
// logins, and kills what they leave behind. On an error some doors may be
// open and some closed; the caller undoes it by OpenDoors. Closing again shuts
// what was opened meanwhile.
func CloseDoors(ctx context.Context, s State) error {
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
	names := s.names()
	if open, err := unmasked(ctx, c, names); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	} else if len(open) > 0 {
		return fmt.Errorf("closing the doors: systemd was asked to mask %s and did not", strings.Join(open, ", "))
	}
	if err := stopUnits(ctx, c, names); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	if err := endSessions(ctx, s); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	if err := endLeftBehind(ctx, s); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	return nil
}

// OpenDoors takes away the masks that CloseDoors made and starts what ran
// before. It is safe to run twice, and after a CloseDoors that came to do
// nothing or half. It tries every unit before it returns an error.
func OpenDoors(ctx context.Context, s State) error {
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

// CheckDoors names the doors of s that are open although CloseDoors closed
// them: units that run again or whose mask is gone. None means all is shut.
func CheckDoors(ctx context.Context, s State) ([]string, error) {
	c, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("checking the doors: reaching systemd: %w", err)
	}
	defer c.Close()
	names := s.names()
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

func (s State) toMask() (out []string) {
	for _, u := range s.Units {
		if !u.Masked {
			out = append(out, u.Name)
		}
	}
	return out
}
