package search

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A Hit is one place where a needle was found.
type Hit struct {
	Needle string
	Form   string // of Forms, with "gzip:" or "zstd:" before it for each layer that was opened
	Offset int64  // in the stream, or of the compressed member in it
}

type pattern struct {
	needle, form string
	bytes        []byte
}

// A Matcher finds many patterns in one pass. It is Wu and Manber's algorithm (1994): a table says for
// each block of two bytes how far the window may move on, so most of a stream is not looked at.
type Matcher struct {
	patterns []pattern
	shortest int
	shift    [1 << 16]uint8
	ending   [1 << 16][]int // patterns whose first shortest bytes end in that block
	// leading is the most zeros with which a pattern begins. Most of a guest's memory is zeros, and a binary value as
	// UTF-16 may well have two, whose block would then not move the window on.
	leading int
}

// NewMatcher prepares a search for all forms of the needles, and for the magic numbers of gzip and zstd.
func NewMatcher(needles []Needle) (*Matcher, error) {
	m := &Matcher{}
	for _, n := range needles {
		if len(n.Value) < MinValue {
			return nil, fmt.Errorf("search: needle %s has %d bytes, want at least %d", n.Name, len(n.Value), MinValue)
		}
		seen := make(map[string]bool)
		for _, f := range Forms {
			b := Encode(f, n.Value)
			if !seen[string(b)] { // base64url equals base64 where no digit differs
				seen[string(b)] = true
				m.patterns = append(m.patterns, pattern{n.Name, f, b})
			}
		}
	}
	if len(m.patterns) == 0 {
		return nil, errors.New("search: nothing to look for")
	}
	m.shortest = len(m.patterns[0].bytes)
	for _, p := range m.patterns {
		m.shortest = min(m.shortest, len(p.bytes))
	}
	m.shortest = min(m.shortest, 255)
	for i := range m.shift {
		m.shift[i] = uint8(m.shortest - 1)
	}
	for i, p := range m.patterns {
		m.leading = max(m.leading, zeros(p.bytes))
		for j := 1; j < m.shortest; j++ {
			block := uint16(p.bytes[j-1])<<8 | uint16(p.bytes[j])
			m.shift[block] = min(m.shift[block], uint8(m.shortest-1-j))
			if j == m.shortest-1 {
				m.ending[block] = append(m.ending[block], i)
			}
		}
	}
	return m, nil
}

// zeros counts the zero bytes with which b begins.
func zeros(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return len(b)
}

// longest is the length of the longest pattern, in bytes.
func (m *Matcher) longest() (n int) {
	for _, p := range m.patterns {
		n = max(n, len(p.bytes))
	}
	return n
}

// find calls found for each pattern that starts in b.
func (m *Matcher) find(b []byte, found func(p pattern, at int)) {
	for i := m.shortest - 1; i < len(b); {
		block := uint16(b[i-1])<<8 | uint16(b[i])
		if s := m.shift[block]; s > 0 {
			i += int(s)
			continue
		}
		start := i - m.shortest + 1
		if block == 0 && m.leading < m.shortest && zeros(b[start:i+1]) == m.shortest {
			i += m.shortest - m.leading // what starts before begins with more zeros
			continue
		}
		for _, k := range m.ending[block] {
			if bytes.HasPrefix(b[start:], m.patterns[k].bytes) {
				found(m.patterns[k], start)
			}
		}
		i++
	}
}

// windowSize is how much is read at a time, in bytes. Windows overlap by the longest pattern.
const windowSize = 4 << 20

// windows calls look with each window of the stream and its offset. A window's first keep bytes were in the one before.
func windows(r io.Reader, keep int, look func(b []byte, offset int64) error) (size int64, err error) {
	buf := make([]byte, windowSize+keep)
	have := 0
	for {
		n, err := io.ReadFull(r, buf[have:])
		size += int64(n)
		have += n
		if n > 0 {
			if err := look(buf[:have], size-int64(have)); err != nil {
				return size, err
			}
		}
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		copy(buf, buf[have-keep:have])
		have = keep
	}
}
