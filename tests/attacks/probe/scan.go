package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many frames go to the kernel in one call.
	batch = 64
	// window is how many frames may be on their way: several scanners' together
	// are fewer than a tap device queues (1000).
	window = 3 * batch
	// lost is when an ARP answer counts as lost.
	lost = 500 * time.Millisecond
)

// scan sends a TCP SYN and a UDP datagram to every port of a host, as raw
// frames, and prints what answered: "tcp 22 open" (SYN and ACK), "tcp 23
// closed" (reset), "udp 53 open"; beyond limit lines only their number. Raw
// frames are quick, have any source port, and ask nobody on this node. The
// scanned host sets the pace: it answers ARP when it has got through what came
// before, whatever its filters do with that.
func scan(args []string) error {
	f := flag.NewFlagSet("scan", flag.ContinueOnError)
	dev := f.String("dev", "eth0", "network device")
	mac := f.String("mac", "", "the scanned host's hardware address")
	source := f.String("from", "", "source address")
	destination := f.String("to", "", "the scanned host's address")
	sport := f.Int("sport", 40000, "source port")
	first, last := f.Int("first", 1, "first port"), f.Int("last", 65535, "last port")
	neighbour := f.String("arp", "", "IPv4 addresses of this node and of the scanned one, for ARP")
	linger := f.Duration("linger", 2*time.Second, "wait for answers afterwards")
	if err := f.Parse(args); err != nil {
		return err
	}
	s := scanner{sport: uint16(*sport), arps: make(chan struct{}, 1)}
	var err error
	mine, its, _ := strings.Cut(*neighbour, ",")
	asker, err := netip.ParseAddr(mine)
	if err != nil {
		return err
	}
	asked, err := netip.ParseAddr(its)
	if err != nil {
		return err
	}
	if s.from, err = netip.ParseAddr(*source); err != nil {
		return err
	}
	if s.to, err = netip.ParseAddr(*destination); err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(*dev)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(*mac)
	if err != nil {
		return err
	}
	s.ether = append(append(slices.Clone(hw), ifi.HardwareAddr...), 0x08, 0x00)
	if s.to.Is6() {
		s.ether[12], s.ether[13] = 0x86, 0xdd
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}); err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	tv := unix.NsecToTimeval(int64(200 * time.Millisecond))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() { s.receive(fd, stop) })
	began := time.Now()
	request := arp(hw, ifi.HardwareAddr, asker, asked)
	sent := 0
	for port := *first; port <= *last; port += batch / 2 {
		var frames [][]byte
		for p := port; p < port+batch/2 && p <= *last; p++ {
			frames = append(frames, s.frame(unix.IPPROTO_TCP, uint16(p)), s.frame(unix.IPPROTO_UDP, uint16(p)))
		}
		if err := send(fd, frames); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if sent += len(frames); sent%window < batch {
			if err := s.await(fd, request); err != nil {
				return err
			}
		}
	}
	took := time.Since(began)
	time.Sleep(*linger)
	close(stop)
	ended.Wait()
	slices.Sort(s.answers)
	s.answers = slices.Compact(s.answers)
	const limit = 100
	if len(s.answers) > limit {
		fmt.Println(len(s.answers), "answers")
		s.answers = s.answers[:limit]
	}
	fmt.Println(strings.Join(s.answers, "\n"))
	fmt.Fprintf(os.Stderr, "sent in %v\n", took)
	return nil
}

type scanner struct {
	ether    []byte // Ethernet header
	from, to netip.Addr
	sport    uint16
	answers  []string
	arps     chan struct{} // an ARP answer came
}

// arp is a request of RFC 826, sent to the one host that is asked.
func arp(to, from net.HardwareAddr, asker, asked netip.Addr) []byte {
	return slices.Concat(to, from, []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1}, from, asker.AsSlice(), make([]byte, 6), asked.AsSlice())
}

// await waits until the scanned host has got through what was sent.
func (s *scanner) await(fd int, request []byte) error {
	select {
	case <-s.arps: // of an earlier request
	default:
	}
	if err := send(fd, [][]byte{request}); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	select {
	case <-s.arps:
	case <-time.After(lost):
	}
	return nil
}

// frame is one SYN or datagram: RFC 791, 8200, 9293 and 768.
func (s *scanner) frame(proto byte, port uint16) []byte {
	var body []byte
	sum := 6
	if proto == unix.IPPROTO_TCP {
		body = make([]byte, 20)
		body[12], body[13] = 5<<4, 0x02 // header length, SYN
		body[14] = 0xff                 // window
		binary.BigEndian.PutUint32(body[4:], uint32(port)<<8)
		sum = 16
	} else {
		body = append(make([]byte, 8), '?', 0)
		binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
	}
	binary.BigEndian.PutUint16(body, s.sport)
	binary.BigEndian.PutUint16(body[2:], port)
	pseudo := append(append([]byte{0, proto, 0, byte(len(body))}, s.from.AsSlice()...), s.to.AsSlice()...)
	binary.BigEndian.PutUint16(body[sum:], checksum(append(pseudo, body...)))
	var head []byte
	if s.to.Is6() {
		head = append([]byte{0x60, 0, 0, 0, 0, byte(len(body)), proto, 64}, append(s.from.AsSlice(), s.to.AsSlice()...)...)
	} else {
		head = append([]byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0x40, 0, 64, proto, 0, 0}, append(s.from.AsSlice(), s.to.AsSlice()...)...)
		binary.BigEndian.PutUint16(head[10:], checksum(head))
	}
	return slices.Concat(s.ether, head, body)
}

// checksum is that of RFC 1071. The length must be even.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// mmsghdr is struct mmsghdr of sendmmsg(2), which package unix does not have.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func send(fd int, frames [][]byte) error {
	msgs, iov := make([]mmsghdr, len(frames)), make([]unix.Iovec, len(frames))
	for i, f := range frames {
		iov[i].Base = &f[0]
		iov[i].SetLen(len(f))
		msgs[i].hdr.Iov = &iov[i]
		msgs[i].hdr.SetIovlen(1)
	}
	for len(msgs) > 0 {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
		switch errno {
		case 0:
			msgs = msgs[n:]
		case unix.ENOBUFS, unix.EAGAIN, unix.EINTR:
			time.Sleep(time.Millisecond)
		default:
			return errno
		}
	}
	return nil
}

func (s *scanner) receive(fd int, stop chan struct{}) {
	b := make([]byte, 2048)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err == nil {
			s.answer(b[:n])
		}
	}
}

// answer notes a frame from the scanned host to our source port.
func (s *scanner) answer(b []byte) {
	if len(b) >= 22 && b[12] == 0x08 && b[13] == 0x06 && b[21] == 2 {
		select {
		case s.arps <- struct{}{}:
		default:
		}
		return
	}
	if len(b) < 14+28 {
		return
	}
	var from netip.Addr
	var proto byte
	var body []byte
	switch ip := b[14:]; {
	case b[12] == 0x08 && b[13] == 0x00:
		from, proto, body = netip.AddrFrom4([4]byte(ip[12:16])), ip[9], ip[int(ip[0]&15)*4:]
	case b[12] == 0x86 && b[13] == 0xdd && len(b) >= 14+48:
		from, proto, body = netip.AddrFrom16([16]byte(ip[8:24])), ip[6], ip[40:]
	}
	if from != s.to || len(body) < 8 {
		return
	}
	port := binary.BigEndian.Uint16(body)
	ours := binary.BigEndian.Uint16(body[2:]) == s.sport
	switch {
	case proto == unix.IPPROTO_TCP && ours && len(body) > 13 && body[13]&0x04 != 0: // RST
		s.answers = append(s.answers, fmt.Sprintf("tcp %d closed", port))
	case proto == unix.IPPROTO_TCP && ours && len(body) > 13 && body[13]&0x12 == 0x12: // SYN and ACK
		// Anything else is of a connection that the scanned host opened to
		// that port, such as to its file server.
		s.answers = append(s.answers, fmt.Sprintf("tcp %d open", port))
	case proto == unix.IPPROTO_UDP && ours:
		s.answers = append(s.answers, fmt.Sprintf("udp %d open", port))
	case proto == unix.IPPROTO_ICMP && body[0] == 3, proto == unix.IPPROTO_ICMPV6 && body[0] == 1:
		s.answers = append(s.answers, fmt.Sprintf("icmp unreachable %d", body[1]))
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
