package canary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// tcpStreams returns what each direction of each TCP connection in a capture carried, one after the other: a value
// may begin in one packet and end in the next. The capture is a pcap file of Ethernet frames as tcpdump
// writes it (pcap-savefile(5)). Frames that are not TCP over IPv4 are left to the search of the file itself.
func tcpStreams(r io.Reader) ([]byte, error) {
	head := make([]byte, 24)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("read the capture: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(head) != 0xa1b2c3d4 || le.Uint32(head[20:]) != 1 {
		return nil, errors.New("read the capture: not a pcap file of Ethernet frames")
	}
	flows := make(map[string]*flow)
	var order []*flow
	for {
		record := make([]byte, 16)
		if _, err := io.ReadFull(r, record); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the capture: %w", err)
		}
		kept, sent := le.Uint32(record[8:]), le.Uint32(record[12:])
		if kept > 1<<20 || kept != sent {
			return nil, fmt.Errorf("read the capture: %d of a packet's %d bytes were kept", kept, sent)
		}
		frame := make([]byte, kept)
		if _, err := io.ReadFull(r, frame); err != nil {
			return nil, fmt.Errorf("read the capture: %w", err)
		}
		name, sequence, payload := segment(frame)
		if len(payload) == 0 {
			continue
		}
		f := flows[name]
		if f == nil {
			f = &flow{next: sequence}
			flows[name] = f
			order = append(order, f)
		}
		f.take(sequence, payload)
	}
	var out []byte
	for _, f := range order {
		out = append(append(out, f.data...), 0)
	}
	return out, nil
}

// flow is one direction of a connection.
type flow struct {
	next uint32 // the sequence number that continues data
	data []byte
}

// take appends what is new. After a gap it goes on, so that nothing captured is left out.
func (f *flow) take(sequence uint32, payload []byte) {
	if old := int32(f.next - sequence); old > 0 {
		if int(old) >= len(payload) {
			// Sent again, or late: of a port used twice, perhaps. Kept apart.
			f.data = append(append(f.data, 0), payload...)
			return
		}
		payload = payload[old:]
		sequence = f.next
	}
	f.data = append(f.data, payload...)
	f.next = sequence + uint32(len(payload))
}

// segment takes a TCP segment out of an Ethernet frame: RFC 791, RFC 9293. The name is addresses and ports.
func segment(frame []byte) (name string, sequence uint32, payload []byte) {
	be := binary.BigEndian
	if len(frame) < 14+20 || be.Uint16(frame[12:]) != 0x0800 {
		return "", 0, nil
	}
	ip := frame[14:]
	n, total := int(ip[0]&15)*4, int(be.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || ip[9] != 6 || n < 20 || total > len(ip) || total < n+20 {
		return "", 0, nil
	}
	tcp := ip[n:total]
	head := int(tcp[12]>>4) * 4
	if head < 20 || head > len(tcp) {
		return "", 0, nil
	}
	return string(ip[12:20]) + string(tcp[:4]), be.Uint32(tcp[4:]), tcp[head:]
}
