package lockdown

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// inet_diag (sock_diag(7), linux/inet_diag.h), by which TCP sockets are listed
// and closed. vishvananda/netlink closes IPv4 sockets only.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY
	requestLen       = 56 // struct inet_diag_req_v2
	answerLen        = 72 // struct inet_diag_msg
	idLen            = 48 // struct inet_diag_sockid
)

// TCP states of linux/net/tcp_states.h.
const (
	tcpTimeWait = 6
	tcpClose    = 7
	tcpListen   = 10
)

// A connection is one TCP socket of this network namespace.
type connection struct {
	family        byte
	state         byte
	local, remote netip.AddrPort
	id            [idLen]byte // as the kernel names it, cookie included
}

// endConnections closes the TCP sockets that the lock has no place for. The
// filter alone would not do: conntrack, having forgotten who opened a
// connection, takes the side whose packet it sees first for the opener
// (nf_conntrack_tcp_loose), so a session that came *from* a file server's port
// 2049 would look like one to it. NFS mounts must live on, so loose tracking
// cannot simply be switched off.
func (f Filter) endConnections(ctx context.Context, l Lock) error {
	if mutant.Removed(mutant.EndConnections) {
		return nil
	}
	flows, err := l.flows()
	if err != nil {
		return err
	}
	// Twice: a connection that was being accepted during the first round has
	// a socket in the second.
	for range 2 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.closeSockets(flows); err != nil {
			return err
		}
	}
	return nil
}

func (f Filter) closeSockets(flows []flow) error {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: f.NetNS})
	if err != nil {
		return fmt.Errorf("listing connections: %w", err)
	}
	defer c.Close()
	var all []connection
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		some, err := sockets(c, family)
		if err != nil {
			return fmt.Errorf("listing connections: %w", err)
		}
		all = append(all, some...)
	}
	listening := map[uint16]bool{}
	for _, s := range all {
		if s.state == tcpListen {
			listening[s.local.Port()] = true
		}
	}
	for _, s := range all {
		if s.keep(flows, listening) {
			continue
		}
		if err := s.destroy(c); err != nil {
			return fmt.Errorf("closing the connection of %s with %s: %w", s.local, s.remote, err)
		}
	}
	return nil
}

// keep reports whether a socket may live on: it listens (nobody gets through
// to it), has both ends here, or is one of the lock's flows opened by the
// right side. Who opened it shows by its port: a local one that something
// listens on was connected to.
func (s connection) keep(flows []flow, listening map[uint16]bool) bool {
	switch s.state {
	case tcpListen, tcpClose, tcpTimeWait:
		return true
	}
	if s.remote.Addr().IsLoopback() || s.remote.Addr() == s.local.Addr() {
		return true
	}
	for _, f := range flows {
		if f.proto != tcp || !has(f.hosts, s.remote.Addr()) {
			continue
		}
		served := s.remote.Port()
		if f.inbound {
			served = s.local.Port()
		}
		if f.inbound == listening[s.local.Port()] && f.ports.First <= served && served <= f.ports.Last {
			return true
		}
	}
	return false
}

func has(addrs []netip.Addr, a netip.Addr) bool {
	for _, b := range addrs {
		if a == b {
			return true
		}
	}
	return false
}

// sockets lists the TCP sockets of a family.
func sockets(c *netlink.Conn, family byte) ([]connection, error) {
	req := make([]byte, requestLen)
	req[0], req[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // every state
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return nil, err
	}
	var out []connection
	for _, m := range msgs {
		s, err := parseConnection(m.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// parseConnection reads a struct inet_diag_msg: family, state, timer, retrans,
// then the id: ports and addresses in network order, interface, cookie.
func parseConnection(b []byte) (connection, error) {
	if len(b) < answerLen {
		return connection{}, fmt.Errorf("the kernel's answer has %d bytes, not %d", len(b), answerLen)
	}
	s := connection{family: b[0], state: b[1]}
	id := b[4 : 4+idLen]
	copy(s.id[:], id)
	addr := func(b []byte) netip.Addr {
		if s.family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b)).Unmap()
	}
	s.local = netip.AddrPortFrom(addr(id[4:20]), binary.BigEndian.Uint16(id))
	s.remote = netip.AddrPortFrom(addr(id[20:36]), binary.BigEndian.Uint16(id[2:]))
	return s, nil
}

// destroy closes the socket as if the network had failed: its owner gets
// ECONNABORTED, the other side a reset, unless the filter drops it.
func (s connection) destroy(c *netlink.Conn) error {
	req := make([]byte, requestLen)
	req[0], req[1] = s.family, unix.IPPROTO_TCP
	copy(req[8:], s.id[:])
	_, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   req,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // it closed by itself meanwhile
	}
	return err
}
