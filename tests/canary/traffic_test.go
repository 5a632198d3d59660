package canary

import (
	"bytes"
	"encoding/binary"
	"testing"
)

type packet struct {
	port     uint16
	sequence uint32
	payload  string
}

func pcap(packets ...packet) []byte {
	le, be := binary.LittleEndian, binary.BigEndian
	out := make([]byte, 24)
	le.PutUint32(out, 0xa1b2c3d4)
	le.PutUint32(out[20:], 1)
	for _, p := range packets {
		frame := make([]byte, 14+20+20, 14+20+20+len(p.payload)+4)
		be.PutUint16(frame[12:], 0x0800)
		ip := frame[14:]
		ip[0], ip[9] = 0x45, 6
		be.PutUint16(ip[2:], uint16(40+len(p.payload)))
		be.PutUint16(ip[20:], p.port)
		be.PutUint32(ip[24:], p.sequence)
		ip[32] = 5 << 4
		frame = append(append(frame, p.payload...), "trailer"...)
		head := make([]byte, 16)
		le.PutUint32(head[8:], uint32(len(frame)))
		le.PutUint32(head[12:], uint32(len(frame)))
		out = append(append(out, head...), frame...)
	}
	return out
}

func TestAValueThatIsCutByAPacketsEndIsWholeInItsStream(t *testing.T) {
	got, err := tcpStreams(bytes.NewReader(pcap(
		packet{1, 100, "a known "}, packet{2, 7, "between"}, packet{1, 108, "value"}, packet{1, 110, "lue again"})))
	if err != nil {
		t.Fatal(err)
	}
	if want := "a known value again\x00between\x00"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNothingCapturedIsLeftOut(t *testing.T) {
	got, err := tcpStreams(bytes.NewReader(pcap(
		packet{1, 0xfffffffe, "wraps"}, packet{1, 3, "round"}, packet{1, 1000, "after a gap"}, packet{1, 3, "late"})))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"wrapsround", "after a gap", "late"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

func TestACutPacketOrAnotherKindOfFileIsAnError(t *testing.T) {
	whole := pcap(packet{1, 1, "payload"})
	cut := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(cut[24+12:], 5000)
	for name, b := range map[string][]byte{"packet kept in part": cut, "file that ends early": whole[:len(whole)-3], "empty file": nil, "other file": make([]byte, 100)} {
		if _, err := tcpStreams(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzTCPStreams(f *testing.F) {
	f.Add(pcap(packet{1, 1, "one"}, packet{1, 4, "two"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<16 {
			_, _ = tcpStreams(bytes.NewReader(b))
		}
	})
}
