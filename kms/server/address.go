package server

import (
	"net/netip"
	"time"
)

// How many addresses' worth a /64 of IPv6 has together. One host can have all its
// addresses, so they cannot each have a limit alone; but it may also be a whole
// cluster's, whose nodes a few hosts of an ordinary job must not keep from the KMS.
const (
	// More hosts than a job usually has, and still a bound for one that has all
	// addresses: it does no more than so many hosts with one each.
	requestsPerNetwork = 64
	// A login costs a hash that is made to be slow: two cores do about nine a
	// second, of which one network can take four. Nodes do not log in.
	loginsPerNetwork = 8
	// Connections are a share of a fixed number: at most half of all.
	connsPerNetwork = 4
)

// origin is whose limits a request falls under.
type origin struct {
	address string
	network string // its /64, "" for IPv4
}

// originOf takes an address with or without a port.
func originOf(remote string) origin {
	a, err := netip.ParseAddr(host(remote))
	if err != nil {
		return origin{address: remote}
	}
	a = a.Unmap()
	if a.Is4() {
		return origin{address: a.String()}
	}
	net, _ := a.Prefix(64) // cannot fail: 64 bits fit
	return origin{a.String(), net.String()}
}

// originBuckets hold back an address, and a network with a multiple of that.
type originBuckets struct{ addresses, networks *buckets }

func newOriginBuckets(burst int, every time.Duration, perNetwork int) originBuckets {
	// Of nothing, nobody would ever be held back.
	return originBuckets{newBuckets(burst, every), newBuckets(perNetwork*burst, max(1, every/time.Duration(perNetwork)))}
}

func (b originBuckets) full(o origin, now time.Time) bool {
	return b.addresses.full(o.address, now) || o.network != "" && b.networks.full(o.network, now)
}

// take asks the address first: one that has to wait does not fill its network's.
func (b originBuckets) take(o origin, now time.Time) bool {
	return b.addresses.take(o.address, now) && (o.network == "" || b.networks.take(o.network, now))
}
