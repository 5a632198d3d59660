package lockdown

import (
	"context"
	"fmt"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// A Reached is Doors with a connection to systemd and logind, for whoever has
// more than one thing to do: making a connection takes an emulated guest 30 ms.
type Reached struct {
	doors   Doors
	bus     *dbus.Conn
	systemd *systemd.Conn
	keep    func() bool // lets the connection outlive the context of Reach
}

// reachLimit bounds the making of a connection: a bus that takes it and says
// nothing would be waited for for ever. A variable for tests.
var reachLimit = 30 * time.Second

// Reach connects, over the system bus. The connection is closed by Done, by the
// end of ctx, or with Watch, if that was called.
func (d Doors) Reach(ctx context.Context) (*Reached, error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	late := time.AfterFunc(reachLimit, cancel)
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(own))
	if !late.Stop() {
		err = fmt.Errorf("no answer within %s", reachLimit)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("reaching systemd: %w", err)
	}
	c, err := systemd.NewConnection(func() (*dbus.Conn, error) { return bus, nil })
	if err != nil {
		bus.Close()
		cancel()
		return nil, fmt.Errorf("reaching systemd: %w", err)
	}
	return &Reached{doors: d, bus: bus, systemd: c, keep: stop}, nil
}

// Done closes the connection. It is safe to call twice.
func (r *Reached) Done() { r.bus.Close() }

// reached does f with a connection of its own.
func (d Doors) reached(ctx context.Context, f func(*Reached) error) error {
	r, err := d.Reach(ctx)
	if err != nil {
		return err
	}
	defer r.Done()
	return f(r)
}
