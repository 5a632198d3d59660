// Package search looks for known values in large streams, in every form in which they are likely to be
// written: raw, hexadecimal, base64 at each of its three phases, UTF-16, and inside gzip and zstd.
//
// It is for tests that ask whether a secret left the place where it may be. It finds values that lie
// together; one that is cut in two by the border of a memory page is found only by its other copies.
package search

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// MinValue is the shortest value that a Needle may have, in bytes: a shorter one is found by chance.
const MinValue = 16

// A Needle is a value to look for.
type Needle struct {
	Name  string // of the kind of secret, for people
	Value []byte
}

// Forms lists the names of the forms that Encode knows.
var Forms = []string{"raw", "hex", "HEX", "base64.0", "base64.1", "base64.2", "base64url.0", "base64url.1", "base64url.2", "utf-16le", "utf-16be"}

// Encode returns the bytes that are searched for in one form. Base64 at phase n is what stays the same when n
// bytes, or n more than a multiple of three, stand before the value, whatever they are and whatever follows.
// UTF-16 is that of each byte as a character (Latin-1).
func Encode(form string, value []byte) []byte {
	switch form {
	case "raw":
		return value
	case "hex":
		return []byte(hex.EncodeToString(value))
	case "HEX":
		return []byte(strings.ToUpper(hex.EncodeToString(value)))
	case "base64.0", "base64.1", "base64.2":
		return phase(base64.RawStdEncoding, value, int(form[len(form)-1]-'0'))
	case "base64url.0", "base64url.1", "base64url.2":
		return phase(base64.RawURLEncoding, value, int(form[len(form)-1]-'0'))
	case "utf-16le", "utf-16be":
		out := make([]byte, 2*len(value))
		low := 0
		if form == "utf-16be" {
			low = 1
		}
		for i, b := range value {
			out[2*i+low] = b
		}
		return out
	}
	panic(fmt.Sprintf("search: no form %q", form))
}

// phase leaves out the characters that depend on neighbours: each character holds 6 bits.
func phase(e *base64.Encoding, value []byte, n int) []byte {
	padded := append(make([]byte, n), value...)
	out := e.EncodeToString(padded)
	first := (8*n + 5) / 6
	last := 8 * len(padded) / 6
	return []byte(out[first:last])
}
