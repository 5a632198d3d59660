package lockdown

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"cloister/mutant"
	"cloister/noded/pulse"
)

// systemd's names on the bus, org.freedesktop.systemd1(5).
const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = "org.freedesktop.systemd1.Manager"
)

// doorsPatience is how long the doors may be neither seen nor closed before
// Watch gives up: longer than systemd takes to execute itself anew (a second;
// ten on an emulated guest).
var doorsPatience = 30 * time.Second

// lookLimit bounds one look, closing included: a systemd that does not answer
// is one that cannot be watched.
const lookLimit = 30 * time.Second

// Watch keeps closed what Close closed until ctx ends. Whenever systemd or
// logind announces something that could open a door, it looks, and guards,
// stops and ends again. report hears of each door that was open, in words for
// a record, from Watch's own goroutine.
//
// An error means that the doors can no longer be watched or closed; the caller
// must then treat the node as open.
func (d Doors) Watch(ctx context.Context, report func(string)) error {
	r, err := d.Reach(ctx)
	if err != nil {
		return fmt.Errorf("watching the doors: %w", err)
	}
	return r.Watch(ctx, report)
}

// Watch is Doors.Watch; it closes the connection in the end.
func (r *Reached) Watch(ctx context.Context, report func(string)) error {
	r.keep()
	defer r.Done()
	stop := context.AfterFunc(ctx, r.Done)
	defer stop()
	signals := make(chan *dbus.Signal, 64)
	r.bus.Signal(signals)
	if err := subscribe(ctx, r.bus); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watching the doors: %w", err)
	}
	var failing time.Time
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		pause := recheck
		look, done := context.WithTimeout(ctx, lookLimit)
		err := r.shut(look, report)
		done()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
			pause = retry
		case time.Since(failing) > doorsPatience:
			return fmt.Errorf("watching the doors: %w", err)
		default:
			pause = retry
		}
		if err := r.doors.announced(ctx, r.bus, signals, pause); err != nil {
			return fmt.Errorf("watching the doors: %w", err)
		}
	}
	return nil
}

// subscribe asks for the announcements of systemd and logind. Those of units
// and of their properties are not among them: every start has a job, and a look
// at a unit that nothing needs makes systemd load it, announce it and forget it again.
func subscribe(ctx context.Context, bus *dbus.Conn) error {
	ctx, done := context.WithTimeout(ctx, lookLimit)
	defer done()
	rules := [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, systemdName)},
	}
	for _, member := range []string{"JobNew", "JobRemoved", "UnitFilesChanged", "Reloading"} {
		rules = append(rules, []dbus.MatchOption{dbus.WithMatchSender(systemdName), dbus.WithMatchInterface(systemdManager), dbus.WithMatchMember(member)})
	}
	for _, member := range []string{"SessionNew", "UserNew"} {
		rules = append(rules, []dbus.MatchOption{dbus.WithMatchSender(loginName), dbus.WithMatchInterface(strings.TrimSuffix(loginManager, ".")), dbus.WithMatchMember(member)})
	}
	for _, r := range rules {
		if err := bus.AddMatchSignalContext(ctx, r...); err != nil {
			return fmt.Errorf("asking the system bus for announcements: %w", err)
		}
	}
	return listen(ctx, bus)
}

// listen makes systemd send its signals at all.
func listen(ctx context.Context, bus *dbus.Conn) error {
	ctx, done := context.WithTimeout(ctx, lookLimit)
	defer done()
	err := bus.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+".Subscribe", 0).Err
	if err != nil && !isDBusError(err, "org.freedesktop.systemd1.AlreadySubscribed") {
		return fmt.Errorf("subscribing to systemd's announcements: %w", err)
	}
	return nil
}

// announced returns when there is a reason to look: an announcement, or pause is
// over.
func (d Doors) announced(ctx context.Context, bus *dbus.Conn, signals <-chan *dbus.Signal, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case s, ok := <-signals:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("the system bus hung up")
			}
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
				if owner, _ := s.Body[len(s.Body)-1].(string); owner == "" {
					continue // systemd executes itself anew, or is gone: the next look will tell
				}
				if err := listen(ctx, bus); err != nil {
					return err
				}
				return nil
			}
			if d.concerns(s) {
				return nil
			}
		}
	}
}

// concerns reports whether an announcement may be of a door.
func (d Doors) concerns(s *dbus.Signal) bool {
	at := -1 // where the unit's name is
	switch s.Name {
	case systemdManager + ".JobNew", systemdManager + ".JobRemoved":
		at = 2
	}
	if at < 0 {
		return true
	}
	if len(s.Body) <= at {
		return true
	}
	unit, ok := s.Body[at].(string)
	if !ok || strings.HasPrefix(unit, "session-") {
		return true
	}
	return slices.ContainsFunc(d.names(), func(n string) bool {
		match, _ := path.Match(pattern(n), unit)
		return match
	})
}

// shut looks whether anything is open and closes it.
func (r *Reached) shut(ctx context.Context, report func(string)) error {
	if mutant.Removed(mutant.DoorsWatch) {
		return nil
	}
	open, err := r.inspect(ctx)
	if err == nil {
		var in []string
		in, err = r.loggedIn(ctx)
		open = append(open, in...)
	}
	if err == nil && len(open) == 0 {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	if err != nil {
		report(fmt.Sprintf("the doors cannot be seen: %v", err))
		return err
	}
	if err := r.closeAgain(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil
		}
		report(fmt.Sprintf("%s; closing again failed: %v", strings.Join(open, ", "), err))
		return err
	}
	report(strings.Join(open, ", ") + "; closed again")
	return nil
}
