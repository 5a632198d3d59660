package lockdown

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// logind's names on the bus, org.freedesktop.login1(5).
const (
	loginName    = "org.freedesktop.login1"
	loginPath    = dbus.ObjectPath("/org/freedesktop/login1")
	loginManager = "org.freedesktop.login1.Manager."
)

// A login is one entry of logind's ListSessions.
type login struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}

// endSessions ends every login at once, whatever it is doing, and waits until
// logind knows of none. A node without logind has none.
func (r *Reached) endSessions(ctx context.Context) error {
	if mutant.Removed(mutant.EndLogins) {
		return nil
	}
	o := r.bus.Object(loginName, loginPath)
	for {
		all, err := r.logins(ctx)
		if err != nil {
			return fmt.Errorf("ending logins: %w", err)
		}
		var left []string
		for _, s := range all {
			left = append(left, s.User+"'s "+s.ID)
			// Killed first: a process that ignores SIGTERM would hold a
			// session open for TimeoutStopSec. Either call fails when the
			// session ended meanwhile; the next round sees what is left.
			_ = o.CallWithContext(ctx, loginManager+"KillSession", 0, s.ID, "all", int32(unix.SIGKILL)).Err
			_ = o.CallWithContext(ctx, loginManager+"TerminateSession", 0, s.ID).Err
		}
		if len(left) == 0 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("ending logins %s: %w", strings.Join(left, ", "), err)
		}
	}
}

// logins lists those that are to end.
func (r *Reached) logins(ctx context.Context) ([]login, error) {
	var all []login
	if err := r.bus.Object(loginName, loginPath).CallWithContext(ctx, loginManager+"ListSessions", 0).Store(&all); isNoLogind(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("listing the logins: %w", err)
	}
	return slices.DeleteFunc(all, func(s login) bool { return r.doors.KeepConsole && s.UID == 0 && s.Seat != "" }), nil
}

// loggedIn names the logins that are to end.
func (r *Reached) loggedIn(ctx context.Context) (who []string, err error) {
	all, err := r.logins(ctx)
	for _, s := range all {
		who = append(who, s.User+" is logged in (session "+s.ID+")")
	}
	return who, err
}

// lingers reports whether a user's manager runs without a login
// (loginctl enable-linger).
func (r *Reached) lingers(_ context.Context, uid string) (bool, error) {
	v, err := r.bus.Object(loginName, loginPath+"/user/_"+dbus.ObjectPath(uid)).GetProperty(loginName + ".User.Linger")
	if err != nil {
		if isNoLogind(err) || isDBusError(err, "org.freedesktop.DBus.Error.UnknownObject") {
			return false, nil
		}
		return false, fmt.Errorf("asking logind whether user %s lingers: %w", uid, err)
	}
	on, _ := v.Value().(bool)
	return on, nil
}

func isNoLogind(err error) bool {
	return isDBusError(err, "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.systemd1.NoSuchUnit")
}

func isDBusError(err error, names ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range names {
		if e.Name == n {
			return true
		}
	}
	return false
}

// endLeftBehind kills the processes that outlived the stop of their unit or
// login: Debian's ssh.service and cron.service have KillMode=process, which
// leaves what they started alone.
func (d Doors) endLeftBehind(ctx context.Context) error {
	if mutant.Removed(mutant.EndLogins) {
		return nil
	}
	names := d.names()
	inDoor := func(p Process) bool {
		for _, part := range strings.Split(p.Cgroup, "/") {
			if !d.KeepConsole && strings.HasPrefix(part, "session-") && strings.HasSuffix(part, ".scope") {
				return true
			}
			for _, n := range names {
				if ok, _ := path.Match(pattern(n), part); ok {
					return true
				}
			}
		}
		return false
	}
	_, err := hunt{first: (*Process).readCgroup, worth: inDoor, match: func(Process) bool { return true }}.end(ctx)
	if err != nil {
		return fmt.Errorf("ending what was left behind: %w", err)
	}
	return nil
}
