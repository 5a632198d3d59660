package server

import (
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestAnAddressIsTheSameHoweverItIsWrittenAndOneOfIPv6HasANetwork(t *testing.T) {
	for remote, want := range map[string]origin{
		"10.0.0.1:1234":            {address: "10.0.0.1"},
		"[::ffff:10.0.0.1]:1234":   {address: "10.0.0.1"},
		"[2001:db8::1]:1234":       {"2001:db8::1", "2001:db8::/64"},
		"[2001:db8:0:0:ffff::2]:1": {"2001:db8::ffff:0:0:2", "2001:db8::/64"},
		"[2001:db8:0:1::1]:1234":   {"2001:db8:0:1::1", "2001:db8:0:1::/64"},
		"[fe80::1%eth0]:1234":      {"fe80::1%eth0", "fe80::/64"},
		"@":                        {address: "@"},
	} {
		if got := originOf(remote); got != want {
			t.Errorf("%s: %+v, want %+v", remote, got, want)
		}
	}
}

// conns gives connections from addresses, without any.
type conns struct {
	net.Listener
	from []string
}

type fakeConn struct {
	net.Conn
	from net.Addr
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.from }
func (c *fakeConn) Close() error         { return nil }

func (l *conns) Accept() (net.Conn, error) {
	if len(l.from) == 0 {
		return nil, net.ErrClosed
	}
	c := &fakeConn{from: &net.TCPAddr{IP: net.ParseIP(l.from[0]), Port: 1}}
	l.from = l.from[1:]
	return c, nil
}

func TestAHostWithManyAddressesDoesNotTakeTheConnectionsOfAll(t *testing.T) {
	const most = 3
	var from []string
	for i := range 10 * most {
		from = append(from, fmt.Sprintf("2001:db8::%x", i))
	}
	l := &perAddress{max: most, log: zap.NewNop(), open: map[string]int{}}
	accepted := func(from ...string) (all []net.Conn) {
		l.Listener = &conns{from: from}
		for {
			c, err := l.Accept()
			if err != nil {
				return all
			}
			all = append(all, c)
		}
	}
	held := accepted(from...)
	if len(held) != connsPerNetwork*most {
		t.Errorf("%d connections, want %d", len(held), connsPerNetwork*most)
	}
	if n := len(accepted("2001:db8:0:1::1", "10.0.0.1")); n != 2 {
		t.Errorf("%d connections of two other networks", n)
	}
	held[0].Close()
	if n := len(accepted("2001:db8::aaaa", "2001:db8::aaaa")); n != 1 {
		t.Errorf("%d connections once one was closed", n)
	}
	for _, c := range held {
		c.Close()
	}
	if n := len(accepted("2001:db8::bbbb", "2001:db8::bbbb", "2001:db8::bbbb", "2001:db8::bbbb")); n != most {
		t.Errorf("%d connections of one address, want %d", n, most)
	}
}

func TestAHostWithManyAddressesIsHeldBackAsOne(t *testing.T) {
	const most = 5
	k := newKMS(t, Config{MaxRefused: most, MaxLookups: most})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	ask := func(from, what, token string) int {
		r := httptest.NewRequest("PUT", "/v1/sys/wrapping/"+what, strings.NewReader(`{"token":"`+token+`"}`))
		r.RemoteAddr = from
		rec := httptest.NewRecorder()
		k.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	served := func(network, what, token string, want int) (n int) {
		for i := range 2 * requestsPerNetwork * most {
			if ask(fmt.Sprintf("[%s:%x::1]:1", network, i), what, token) == want {
				n++
			}
		}
		return n
	}
	if n := served("2001:db8:0:1", "lookup", w.Token, 200); n != requestsPerNetwork*most {
		t.Errorf("%d lookups, want %d", n, requestsPerNetwork*most)
	}
	if n := served("2001:db8:0:2", "unwrap", "ckw.nothing", 400); n != requestsPerNetwork*most {
		t.Errorf("%d refused unwraps, want %d", n, requestsPerNetwork*most)
	}
	if code := ask("[2001:db8:0:2:ffff::1]:1", "unwrap", w.Token); code != 429 {
		t.Errorf("a good one of that network: %d", code)
	}
	if code := ask("[2001:db8:0:3::1]:1", "lookup", w.Token); code != 200 {
		t.Errorf("another network: %d", code)
	}
	k.clock = k.clock.Add(refusedWindow)
	if code := ask("[2001:db8:0:2:ffff::1]:1", "unwrap", w.Token); code != 200 {
		t.Errorf("half a minute later: %d", code)
	}
	const guesses = 3 * loginsPerNetwork * loginsFromBurst
	n := 0
	for i := range guesses {
		if k.loginsFrom.take(originOf(fmt.Sprintf("[2001:db8:0:4:%x::1]:1", i)), k.clock) {
			n++
		}
	}
	if n != loginsPerNetwork*loginsFromBurst {
		t.Errorf("%d logins, want %d", n, loginsPerNetwork*loginsFromBurst)
	}
	if !k.loginsFrom.take(originOf("10.0.0.1:1"), k.clock.Add(time.Second)) {
		t.Error("an address of IPv4 is held back with them")
	}
}

// TestAFewHostsDoNotKeepTheirNetworkFromTheServer has the hosts of a job, all of one
// network, do as much as each of them can.
func TestAFewHostsDoNotKeepTheirNetworkFromTheServer(t *testing.T) {
	const (
		most  = 5
		hosts = 7
	)
	k := newKMS(t, Config{MaxRefused: most, MaxLookups: most})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	ask := func(host int, what, token string) int {
		r := httptest.NewRequest("PUT", "/v1/sys/wrapping/"+what, strings.NewReader(`{"token":"`+token+`"}`))
		r.RemoteAddr = fmt.Sprintf("[2001:db8::%x]:1", host)
		rec := httptest.NewRecorder()
		k.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	const bystander = 0xaaaa
	logIn := func(host int) bool {
		return k.loginsFrom.take(originOf(fmt.Sprintf("[2001:db8::%x]:1", host)), k.clock)
	}
	for host := range hosts {
		for range 2 * most {
			ask(host, "lookup", w.Token)
		}
		for range 2 * loginsFromBurst {
			logIn(host)
		}
	}
	if code := ask(bystander, "lookup", w.Token); code != 200 {
		t.Errorf("a lookup of another host: %d", code)
	}
	if !logIn(bystander) {
		t.Error("another host cannot log in")
	}
	for host := range hosts {
		for range 2 * most {
			ask(host, "unwrap", "ckw.nothing")
		}
		if code := ask(host, "unwrap", "ckw.nothing"); code != 429 {
			t.Errorf("host %d is not held back: %d", host, code)
		}
	}
	if code := ask(bystander, "unwrap", w.Token); code != 200 {
		t.Errorf("an unwrap of another host: %d", code)
	}
}
