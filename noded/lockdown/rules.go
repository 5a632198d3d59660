package lockdown

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/policy"
)

// TableName is the table of the inet family that holds a node's lock.
const TableName = "cloister"

// priority puts the chains after everybody's DNAT (-100) and filter (0): what
// they see is where a packet really goes, and what they count is what nothing
// else would have stopped.
const priority = 10

// A ruleset is a lock in the packet filter's own terms, before it has handles.
type ruleset struct {
	sets   []addressSet
	chains []chain
}

// An addressSet is a named set of addresses of one family.
type addressSet struct {
	name  string
	addrs []netip.Addr
}

type chain struct {
	name   string
	hook   *nftables.ChainHook
	policy nftables.ChainPolicy
	rules  []rule
}

type rule struct {
	comment string
	exprs   []expr.Any
}

// compile turns a lock into rules.
//
// A reply passes by direction as well as by address and port: conntrack knows
// who opened a connection, so a file server that connects *from* port 2049
// (attack 38) meets the drop. Related packets are ICMP errors only, never what
// a connection-tracking helper expects.
func (l Lock) compile() (ruleset, error) {
	flows, err := l.flows()
	if err != nil {
		return ruleset{}, err
	}
	var rs ruleset
	in := []rule{{"this node itself", exprs(interfaceName(expr.MetaKeyIIFNAME, "lo"), accept())}}
	out := []rule{{"this node itself", exprs(interfaceName(expr.MetaKeyOIFNAME, "lo"), accept())}}
	known := map[string]bool{}
	for _, f := range flows {
		four, six := split(f.hosts)
		for _, family := range []struct {
			suffix string
			addrs  []netip.Addr
		}{{"4", four}, {"6", six}} {
			if len(family.addrs) == 0 {
				continue
			}
			name := f.set + family.suffix
			if !known[name] {
				known[name] = true
				rs.sets = append(rs.sets, addressSet{name, family.addrs})
			}
			i, o := f.rules(name, family.suffix == "6")
			in, out = append(in, i), append(out, o)
		}
	}
	in = append(in, icmpIn()...)
	out = append(out, icmpOut()...)

	closed := nftables.ChainPolicyDrop
	if mutant.Removed(mutant.DefaultDrop) {
		closed = nftables.ChainPolicyAccept
	}
	rs.chains = []chain{
		{"input", nftables.ChainHookInput, closed, append(in, dropped("in")...)},
		{"output", nftables.ChainHookOutput, closed, append(out, dropped("out")...)},
		{"forward", nftables.ChainHookForward, closed, dropped("forward")},
	}
	return rs, nil
}

// rules are the packets of one flow: in and out.
func (f flow) rules(set string, six bool) (in, out rule) {
	const original, reply = 0, 1 // IP_CT_DIR_ORIGINAL, IP_CT_DIR_REPLY
	opening := uint32(expr.CtStateBitNEW | expr.CtStateBitESTABLISHED)
	answer := uint32(expr.CtStateBitESTABLISHED)
	inPort, outPort := sourcePort, destinationPort
	inDir, outDir, inState, outState := byte(reply), byte(original), answer, opening
	if f.inbound {
		inPort, outPort = destinationPort, sourcePort
		inDir, outDir, inState, outState = original, reply, opening, answer
	}
	inWay, outWay := exprs(state(inState), direction(inDir)), exprs(state(outState), direction(outDir))
	if mutant.Removed(mutant.RepliesOnly) {
		inWay, outWay = nil, nil
	}
	in.exprs = exprs(address(set, six, source), port(f.proto, inPort, f.ports), inWay, accept())
	out.exprs = exprs(address(set, six, destination), port(f.proto, outPort, f.ports), outWay, accept())
	return in, out
}

// Types of RFC 4443, 4861, 2710 and 3810. Neighbour discovery is what ARP is
// for IPv4; without it the allowed hosts are not found. Hop limit 255 shows
// that the packet was not routed (RFC 4861, 7.1). Listener reports let
// switches that snoop pass solicitations on.
const (
	mldQuery        = 130
	mldReport       = 131
	routerSolicit   = 133
	routerAdvert    = 134
	neighborSolicit = 135
	neighborAdvert  = 136
	mld2Report      = 143
	notRouted       = 255
	oneHop          = 1
)

func icmpIn() []rule {
	return append(icmpErrors(),
		rule{"", exprs(icmp6(neighborSolicit, notRouted), accept())},
		rule{"", exprs(icmp6(neighborAdvert, notRouted), accept())},
		rule{"", exprs(icmp6(routerAdvert, notRouted), accept())},
		rule{"", exprs(icmp6(mldQuery, oneHop), accept())},
	)
}

func icmpOut() []rule {
	return append(icmpErrors(),
		rule{"", exprs(icmp6(neighborSolicit, notRouted), accept())},
		rule{"", exprs(icmp6(neighborAdvert, notRouted), accept())},
		rule{"", exprs(icmp6(routerSolicit, notRouted), accept())},
		rule{"", exprs(icmp6(mldReport, oneHop), accept())},
		rule{"", exprs(icmp6(mld2Report, oneHop), accept())},
	)
}

// icmpErrors pass when they are about a connection that passes: without them
// a path with a smaller MTU would stall.
func icmpErrors() []rule {
	related := uint32(expr.CtStateBitRELATED)
	return []rule{
		{"", exprs(protocol(icmp), state(related), accept())},
		{"", exprs(protocol(icm6), state(related), accept())},
	}
}

// dropped is the end of a chain: a limited log line, and the counter that
// tests and receipts read. The chain's policy then drops.
func dropped(way string) []rule {
	prefix := []byte("cloister dropped " + way + ": ")
	return []rule{
		{"", []expr.Any{
			// Enough to see what knocks, too little to fill a disk.
			&expr.Limit{Type: expr.LimitTypePkts, Rate: 10, Unit: expr.LimitTimeMinute, Burst: 5},
			&expr.Log{Key: 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_LEVEL, Level: expr.LogLevelWarning, Data: prefix},
		}},
		{droppedComment, []expr.Any{&expr.Counter{}}},
	}
}

const droppedComment = "dropped"

func exprs(parts ...[]expr.Any) (out []expr.Any) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func interfaceName(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(padded)}
}

func protocol(n byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{n})}
}

func family(six bool) []expr.Any {
	n := byte(unix.NFPROTO_IPV4)
	if six {
		n = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{n})}
}

type end int

const (
	source end = iota
	destination
)

// address matches one end of a packet against a named set. Offsets and
// lengths are of RFC 791 and RFC 8200 headers.
func address(set string, six bool, which end) []expr.Any {
	offset, length := uint32(12), uint32(4)
	if six {
		offset, length = 8, 16
	}
	if which == destination {
		offset += length
	}
	return append(family(six),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	)
}

// The ports' offsets are the same in TCP and UDP.
const (
	sourcePort      uint32 = 0
	destinationPort uint32 = 2
)

func port(proto byte, offset uint32, r policy.PortRange) []expr.Any {
	out := append(protocol(proto), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2})
	lo, hi := binary.BigEndian.AppendUint16(nil, r.First), binary.BigEndian.AppendUint16(nil, r.Last)
	if r.First == r.Last {
		return append(out, equal(lo))
	}
	return append(out, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: lo, ToData: hi})
}

// state matches any of the connection states in mask.
func state(mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func direction(d byte) []expr.Any {
	return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, equal([]byte{d})}
}

// icmp6 matches a type and the hop limit, byte 7 of the IPv6 header.
func icmp6(kind, hops byte) []expr.Any {
	return exprs(family(true), protocol(icm6),
		[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, equal([]byte{kind})},
		[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}, equal([]byte{hops})},
	)
}

func equal(b []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

// comment is a rule's user data as nft(8) writes it, none if it is empty.
func comment(s string) []byte {
	if s == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, s)
}

func split(addrs []netip.Addr) (four, six []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	return four, six
}
