package handoff

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DatagramMax is the greatest length of a datagram in bytes, either way.
const DatagramMax = 64 << 10

// What the C decoder takes (cgo/plugin/message.h).
const (
	envMax          = 512
	messagesMax     = 64
	messageBytesMax = 1024
	pathBytesMax    = 4095 // PATH_MAX of limits.h without its NUL
)

// Most groups that Linux lets a process have (NGROUPS_MAX of limits.h).
const groupsMax = 65536

const format = "cloister=1"

// A field is name=value.
type field struct{ name, value string }

// fields takes a datagram apart. Its first field, which names the format, is
// checked and left out.
func fields(datagram []byte) ([]field, error) {
	if len(datagram) == 0 || len(datagram) > DatagramMax {
		return nil, fmt.Errorf("a datagram of %d bytes", len(datagram))
	}
	if datagram[len(datagram)-1] != 0 {
		return nil, errors.New("the last field has no end")
	}
	parts := bytes.Split(datagram[:len(datagram)-1], []byte{0})
	if string(parts[0]) != format {
		return nil, errors.New("not a request of format 1")
	}
	list := make([]field, 0, len(parts)-1)
	for _, part := range parts[1:] {
		name, value, ok := strings.Cut(string(part), "=")
		if !ok || name == "" {
			return nil, errors.New("a field without a name")
		}
		list = append(list, field{name, value})
	}
	return list, nil
}

// number reads a decimal without sign or leading zeros that fits 32 bits.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("not a number of 32 bits")
	}
	return uint32(n), nil
}

// writer makes a datagram.
type writer struct{ buf bytes.Buffer }

func newWriter() *writer {
	w := new(writer)
	w.buf.WriteString(format + "\x00")
	return w
}

// put adds a field. The caller has made sure that value holds no NUL.
func (w *writer) put(name, value string) {
	w.buf.WriteString(name)
	w.buf.WriteByte('=')
	w.buf.WriteString(value)
	w.buf.WriteByte(0)
}

// line makes text fit for one line of a user's terminal: what could move the
// cursor or end the line becomes a question mark, what is too long is cut.
func line(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > messageBytesMax {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (w *writer) messages(texts []string) {
	for i, text := range texts {
		if i == messagesMax {
			return
		}
		text = line(text)
		// a refusal must get through whatever its length
		if w.buf.Len()+len("message=")+len(text)+1 > DatagramMax {
			return
		}
		w.put("message", text)
	}
}
