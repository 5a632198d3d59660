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
	// Units to stop and keep from starting; a template ("getty@.service") stands for all of
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
	Running []string `json:"running"` // units that ran, to start again
}

// Survey reads what the doors are now and makes sure that they can be closed;
// it closes nothing. It fails where Close could not do its work.
func (d Doors) Survey(ctx context.Context) (s DoorState, err error) {
	err = d.reached(ctx, func(r *Reached) error {
		s, err = r.Survey(ctx)
		return err
	})
	return s, err
}

// Close keeps the units from starting and stops them, ends the logins, and
// kills what they leave behind. Survey must have gone before. On an error some
// doors may be open and some closed; the caller undoes it by Open.
func (d Doors) Close(ctx context.Context) error {
	return d.reached(ctx, func(r *Reached) error { return r.Close(ctx) })
}

// Survey is Doors.Survey.
func (r *Reached) Survey(ctx context.Context) (DoorState, error) {
	s, err := r.survey(ctx)
	if err != nil {
		return DoorState{}, fmt.Errorf("surveying the doors: %w", err)
	}
	return s, nil
}

func (r *Reached) survey(ctx context.Context) (DoorState, error) {
	list, err := r.loaded(ctx)
	if err != nil {
		return DoorState{}, err
	}
	// What is not loaded is read with its guard when somebody starts it.
	missing, err := r.doors.guardsMissing()
	if err != nil {
		return DoorState{}, err
	}
	bare, err := r.unguarded(ctx, list)
	if err != nil {
		return DoorState{}, err
	}
	if len(missing)+len(bare) > 0 {
		if err := r.guard(ctx); err != nil {
			return DoorState{}, err
		}
	}
	var s DoorState
	for _, u := range running(list) {
		again, err := r.startsAgain(ctx, u)
		if err != nil {
			return DoorState{}, fmt.Errorf("%s: %w", u, err)
		}
		if again {
			s.Running = append(s.Running, u)
		}
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

// Close is Doors.Close.
func (r *Reached) Close(ctx context.Context) error {
	if err := r.close(ctx); err != nil {
		return fmt.Errorf("closing the doors: %w", err)
	}
	return nil
}

func (r *Reached) close(ctx context.Context) error {
	// First: what starts from now on is refused by systemd, what started
	// before is found below.
	if err := shutGuards(); err != nil {
		return err
	}
	if err := r.stopUnits(ctx); err != nil {
		return err
	}
	if err := r.endSessions(ctx); err != nil {
		return err
	}
	return r.doors.endLeftBehind(ctx)
}

// Open lets the units start again and has those started that ran before; the
// function that it returns waits until they have. Both are safe to call twice,
// and after a Close that came to do nothing or half. They try every unit before
// they return an error.
//
// A bus that starts anew is waited for: its end may be why the doors are to be
// opened.
func (d Doors) Open(ctx context.Context, s DoorState) (wait func(context.Context) error, err error) {
	for began := time.Now(); ; {
		err := d.open(ctx, s)
		if err == nil {
			return func(ctx context.Context) error { return d.await(ctx, s) }, nil
		}
		if !isWithoutBus(err) || time.Since(began) > busPatience || pause(ctx) != nil {
			return nil, err
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
	if err := openGuards(); err != nil {
		return fmt.Errorf("opening the doors: %w", err)
	}
	return d.eachRunning(ctx, s, startUnit)
}

func (d Doors) await(ctx context.Context, s DoorState) error { return d.eachRunning(ctx, s, awaitUnit) }

func (d Doors) eachRunning(ctx context.Context, s DoorState, do func(context.Context, *systemd.Conn, string) error) error {
	if len(s.Running) == 0 {
		return nil
	}
	return d.reached(ctx, func(r *Reached) error {
		var failed []error
		for _, u := range s.Running {
			if err := do(ctx, r.systemd, u); err != nil {
				failed = append(failed, fmt.Errorf("opening the doors: %w", err))
			}
		}
		return errors.Join(failed...)
	})
}

// Closed reports whether Close has closed the doors, or begun to, and Open has
// not opened them.
func (d Doors) Closed() (bool, error) { return guardsShut() }

// Check names the doors that are open although Close closed them: units that
// run again or could be started. None means that all is shut.
func (d Doors) Check(ctx context.Context) (open []string, err error) {
	err = d.reached(ctx, func(r *Reached) error {
		open, err = r.inspect(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("checking the doors: %w", err)
	}
	return open, nil
}

func (r *Reached) inspect(ctx context.Context) (open []string, err error) {
	list, err := r.loaded(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range running(list) {
		open = append(open, u+" runs")
	}
	if shut, err := guardsShut(); err != nil {
		return nil, err
	} else if !shut {
		open = append(open, closedFile+" is gone")
	}
	if missing, err := r.doors.guardsMissing(); err != nil {
		return nil, err
	} else if len(missing) > 0 {
		open = append(open, "the guard of "+strings.Join(missing, ", ")+" is gone")
	}
	bare, err := r.unguarded(ctx, list)
	if err != nil {
		return nil, err
	}
	for _, u := range bare {
		open = append(open, u+" has no guard")
	}
	return open, nil
}

// closeAgain closes what inspect found open: guards that were taken away are
// put back first.
func (r *Reached) closeAgain(ctx context.Context) error {
	if err := shutGuards(); err != nil {
		return err
	}
	if err := r.guard(ctx); err != nil {
		return err
	}
	return r.close(ctx)
}
