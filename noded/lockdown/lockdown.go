// Package lockdown closes a node to everything but a secure job: its network,
// its doors (SSH, consoles, cron), its running logins and the processes that
// they left.
//
// Each thing that it does has an undo that is safe to run twice and after a
// crash, and undoes only what was done: a unit that this package did not stop
// it does not start. What was there before is surveyed first, so that the
// caller can journal it before anything changes.
//
// The packet filter is a table of its own, `inet cloister`, that is replaced
// in one transaction. A drop in any base chain is final (nft(8), VERDICT
// STATEMENTS), so no other table's accept can open what this one closes, and
// no other table is touched.
//
// It refuses to decide anything: who may reach the node is in a Lock, which
// comes from the policy. It does not watch over root on the node, which is
// trusted; Watch mends what a careless or automatic `nft flush ruleset` broke.
package lockdown

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"cloister/mutant"
	"cloister/policy"
)

// A Lock is the desired state of a locked node's network, as a value.
// Everything that it does not name is dropped, in and out, IPv4 and IPv6.
type Lock struct {
	Controllers []netip.Addr     // hosts of slurmctld
	Clients     []netip.Addr     // login nodes whose srun is answered between sessions
	Peers       []netip.Addr     // other nodes of Slurm: slurmd's fan-out
	FileServers []netip.Addr     // NFS 4.1 or later
	KMS         []netip.AddrPort // one port for all
	DNS         []netip.Addr     // port 53
	NTP         []netip.Addr     // UDP 123

	SlurmctldPort, SlurmdPort, NFSPort uint16
	SrunPorts                          policy.PortRange
}

// FromPolicy is the lock that a node's policy asks for.
func FromPolicy(p *policy.Policy) Lock {
	return Lock{
		Controllers: p.Slurm.Controllers, Clients: p.Slurm.Clients, Peers: p.Slurm.Peers,
		FileServers: p.Network.FileServers, KMS: p.KMS.Endpoints(),
		DNS: p.Network.DNSServers, NTP: p.Network.NTPServers,
		SlurmctldPort: p.Slurm.SlurmctldPort, SlurmdPort: p.Slurm.SlurmdPort, NFSPort: p.Network.NFSPort,
		SrunPorts: p.Slurm.SrunPorts,
	}
}

// InSession is the lock while a job runs. Nobody may launch anything from a
// login node then, and nobody there may get at the output of the job's steps:
// slurmstepd sends a copy to whoever attaches to it (sattach(1)).
func (l Lock) InSession() Lock {
	if !mutant.Removed(mutant.NoClients) {
		l.Clients = nil
	}
	return l
}

// Transport protocols by their IP protocol numbers (IANA).
const (
	tcp  = 6
	udp  = 17
	icmp = 1
	icm6 = 58
)

// Ports that no policy changes: RFC 1035 and RFC 5905.
const (
	dnsPort = 53
	ntpPort = 123
)

// A flow is one kind of connection that a locked node has.
type flow struct {
	set     string       // name of the address set, without the family
	hosts   []netip.Addr // the other side
	inbound bool         // the other side opens it
	proto   byte
	ports   policy.PortRange // of the side that is connected to
}

// flows lists what passes, in a fixed order; a kind without hosts is left out.
func (l Lock) flows() ([]flow, error) {
	kms, kmsPort, err := l.kms()
	if err != nil {
		return nil, err
	}
	one := func(p uint16) policy.PortRange { return policy.PortRange{First: p, Last: p} }
	slurm := unique(l.Controllers, l.Clients, l.Peers)
	all := []flow{
		{"controllers", l.Controllers, false, tcp, one(l.SlurmctldPort)},
		{"file_servers", l.FileServers, false, tcp, one(l.NFSPort)},
		{"kms", kms, false, tcp, one(kmsPort)},
		{"dns_servers", l.DNS, false, udp, one(dnsPort)},
		{"dns_servers", l.DNS, false, tcp, one(dnsPort)},
		{"ntp_servers", l.NTP, false, udp, one(ntpPort)},
		{"slurm_hosts", slurm, true, tcp, one(l.SlurmdPort)},
		{"peers", l.Peers, false, tcp, one(l.SlurmdPort)},
		// slurmstepd connects to the srun that waits on a login node or peer.
		{"srun_hosts", unique(l.Clients, l.Peers), false, tcp, l.SrunPorts},
		// An srun inside the job hears of its step from slurmctld and from the
		// peers' slurmstepd.
		{"step_hosts", unique(l.Controllers, l.Peers), true, tcp, l.SrunPorts},
	}
	var out []flow
	for _, f := range all {
		if len(f.hosts) == 0 {
			continue
		}
		if f.ports.First == 0 || f.ports.Last < f.ports.First {
			return nil, fmt.Errorf("the lock has no port for %s", f.set)
		}
		for _, h := range f.hosts {
			if !h.IsValid() || h.Is4In6() || h.Zone() != "" || h.IsUnspecified() || h.IsMulticast() {
				return nil, fmt.Errorf("the lock has %q among %s, not the address of one host", h, f.set)
			}
		}
		out = append(out, f)
	}
	if len(l.Controllers) == 0 {
		return nil, errors.New("the lock has no Slurm controller: the node would be lost to Slurm")
	}
	return out, nil
}

// kms is the KMS's addresses and the port that they share.
func (l Lock) kms() ([]netip.Addr, uint16, error) {
	var hosts []netip.Addr
	for _, e := range l.KMS {
		if e.Port() != l.KMS[0].Port() {
			return nil, 0, errors.New("the lock has KMS addresses with different ports")
		}
		hosts = append(hosts, e.Addr())
	}
	if len(hosts) == 0 {
		return nil, 0, nil
	}
	return hosts, l.KMS[0].Port(), nil
}

// unique is the sorted union of lists.
func unique(lists ...[]netip.Addr) []netip.Addr {
	all := slices.Concat(lists...)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
