package lockdown

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Exposed lists the TCP sockets that listen where the lock lets others connect
// to, slurmd's own port apart. Before a job's own programs run there is none:
// the ports are those of an srun inside it. Whatever else listens on the node
// meets the filter's drop, or is reached over loopback by the job alone.
func (f Filter) Exposed(ctx context.Context, l Lock) ([]netip.AddrPort, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	flows, err := l.flows()
	if err != nil {
		return nil, fmt.Errorf("listing listeners: %w", err)
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: f.NetNS})
	if err != nil {
		return nil, fmt.Errorf("listing listeners: %w", err)
	}
	defer c.Close()
	var exposed []netip.AddrPort
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		all, err := sockets(c, family)
		if err != nil {
			return nil, fmt.Errorf("listing listeners: %w", err)
		}
		for _, s := range all {
			open := slices.ContainsFunc(flows, func(f flow) bool {
				return f.inbound && f.ports.First <= s.local.Port() && s.local.Port() <= f.ports.Last
			})
			if s.state == tcpListen && open && s.local.Port() != l.SlurmdPort && !s.local.Addr().IsLoopback() {
				exposed = append(exposed, s.local)
			}
		}
	}
	return exposed, nil
}
