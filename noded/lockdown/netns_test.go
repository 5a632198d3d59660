//go:build !guest

package lockdown

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"cloister/policy"
)

// A space is a network namespace made for one test.
type space struct {
	t  testing.TB
	ns netns.NsHandle
}

func newSpace(t testing.TB) space {
	t.Helper()
	s := space{t: t, ns: netns.None()}
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		s.ns, err = netns.New()
	}()
	if <-done; err != nil {
		t.Fatalf("making a network namespace (this test must run as root): %v", err)
	}
	t.Cleanup(func() { s.ns.Close() })
	s.run("ip", "link", "set", "lo", "up")
	return s
}

// do runs f on a thread that is in the namespace.
func (s space) do(f func()) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.ns)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatalf("entering a network namespace: %v", err)
	}
}

func (s space) run(name string, args ...string) string {
	s.t.Helper()
	var out []byte
	var err error
	s.do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		s.t.Fatalf("%s %v: %v\n%s", name, args, err, bytes.TrimSpace(out))
	}
	return string(out)
}

func (s space) filter() Filter { return Filter{NetNS: int(s.ns)} }

// wire joins two namespaces by a veth pair with addresses of both families.
// The first has several peers' addresses to itself: 10.9.0.1 and fd09::1 are
// the node, .10 to .14 and ::10 to ::14 are on the other side.
func wire(t testing.TB, node, peer space) {
	t.Helper()
	node.do(func() {
		l := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "node0"}, PeerName: "peer0",
			PeerNamespace: netlink.NsFd(int(peer.ns)),
		}
		if err := netlink.LinkAdd(l); err != nil {
			t.Errorf("joining two namespaces by veth: %v", err)
		}
	})
	node.run("ip", "addr", "add", "10.9.0.1/24", "dev", "node0")
	node.run("ip", "addr", "add", "fd09::1/64", "dev", "node0", "nodad")
	for i := 10; i < 15; i++ {
		peer.run("ip", "addr", "add", fmt.Sprintf("10.9.0.%d/24", i), "dev", "peer0")
		peer.run("ip", "addr", "add", fmt.Sprintf("fd09::%d/64", i), "dev", "peer0", "nodad")
	}
	node.run("ip", "link", "set", "node0", "up")
	peer.run("ip", "link", "set", "peer0", "up")
	for i := 10; i < 15; i++ {
		node.reach(fmt.Sprintf("10.9.0.%d:1", i))
		node.reach(fmt.Sprintf("[fd09::%d]:1", i))
		peer.reach("[fd09::1]:1")
	}
}

// reach waits until the other side's TCP refuses: packets get there and back.
func (s space) reach(to string) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := s.dial("", to); isRefused(err) {
			return
		} else if time.Now().After(deadline) {
			s.t.Fatalf("the two namespaces do not reach each other: %v", err)
		}
	}
}

// listen accepts and holds connections, answering each with one byte.
func (s space) listen(network, address string) {
	s.t.Helper()
	s.do(func() {
		if network == "udp" {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				s.t.Errorf("listening on %s: %v", address, err)
				return
			}
			s.t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 16)
				for {
					n, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					c.WriteTo(b[:n], from)
				}
			}()
			return
		}
		l, err := (&net.ListenConfig{Control: reuse}).Listen(context.Background(), "tcp", address)
		if err != nil {
			s.t.Errorf("listening on %s: %v", address, err)
			return
		}
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				s.t.Cleanup(func() { c.Close() })
				go echo(c)
			}
		}()
	})
}

func echo(c net.Conn) {
	b := make([]byte, 16)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		c.Write(b[:n])
	}
}

// silence is how long a test waits for an answer that the filter stops.
const silence = 400 * time.Millisecond

// dial opens a connection from the given local address (empty: any) and gets
// one byte back over it.
func (s space) dial(from, to string) error {
	c, err := s.open(from, to)
	if err != nil {
		return err
	}
	defer c.Close()
	// A reset instead of TIME_WAIT, so that a test may use its ports again.
	c.(*net.TCPConn).SetLinger(0)
	return talk(c)
}

func (s space) open(from, to string) (c net.Conn, err error) {
	s.do(func() {
		d := net.Dialer{Timeout: silence}
		if from != "" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
			d.Control = reuse
		}
		c, err = d.Dial("tcp", to)
	})
	return c, err
}

func talk(c net.Conn) error {
	c.SetDeadline(time.Now().Add(silence))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

func (s space) ask(to string) (err error) {
	s.do(func() {
		var c net.Conn
		if c, err = net.Dial("udp", to); err != nil {
			return
		}
		defer c.Close()
		err = talk(c)
	})
	return err
}

func addrs(text ...string) (out []netip.Addr) {
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// labLock is the lock of the veth tests, every kind of flow in it.
func labLock() Lock {
	return Lock{
		Controllers:   addrs("10.9.0.10", "fd09::10"),
		Clients:       addrs("10.9.0.11", "fd09::11"),
		Peers:         addrs("10.9.0.12", "fd09::12"),
		FileServers:   addrs("10.9.0.13", "fd09::13"),
		KMS:           []netip.AddrPort{netip.MustParseAddrPort("10.9.0.10:8200"), netip.MustParseAddrPort("[fd09::10]:8200")},
		DNS:           addrs("10.9.0.10"),
		NTP:           addrs("10.9.0.10", "fd09::10"),
		SlurmctldPort: 6817, SlurmdPort: 6818, NFSPort: 2049,
		SrunPorts: policy.PortRange{First: 60001, Last: 60010},
	}
}
