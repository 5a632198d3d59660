package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// The JSON area, section 3 of the LUKS2 On-Disk Format Specification 1.1.
// 64-bit numbers are decimal strings there.
type metadata struct {
	Keyslots map[string]keyslot         `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]segment         `json:"segments"`
	Digests  map[string]digest          `json:"digests"`
	Config   config                     `json:"config"`
}

type keyslot struct {
	Type     string `json:"type"`
	KeySize  int    `json:"key_size"`
	Priority *int   `json:"priority,omitempty"`
	AF       af     `json:"af"`
	Area     area   `json:"area"`
	KDF      kdf    `json:"kdf"`
}

type af struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type area struct {
	Type       string `json:"type"`
	Offset     u64    `json:"offset"`
	Size       u64    `json:"size"`
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"`
}

// kdf is one of two shapes: pbkdf2 has hash and iterations, argon2i and
// argon2id have time, memory (KiB) and cpus.
type kdf struct {
	Type       string `json:"type"`
	Salt       b64    `json:"salt"`
	Hash       string `json:"hash,omitempty"`
	Iterations int64  `json:"iterations,omitempty"`
	Time       int64  `json:"time,omitempty"`
	Memory     int64  `json:"memory,omitempty"`
	CPUs       int64  `json:"cpus,omitempty"`
}

type segment struct {
	Type       string          `json:"type"`
	Offset     u64             `json:"offset"`
	Size       string          `json:"size"`
	IVTweak    u64             `json:"iv_tweak"`
	Encryption string          `json:"encryption"`
	SectorSize int             `json:"sector_size"`
	Integrity  *authentication `json:"integrity,omitempty"`
	Flags      []string        `json:"flags,omitempty"`
}

// authentication is the object integrity of an authenticated segment.
type authentication struct {
	Type              string `json:"type"`
	JournalEncryption string `json:"journal_encryption"`
	JournalIntegrity  string `json:"journal_integrity"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int64    `json:"iterations"`
	Salt       b64      `json:"salt"`
	Digest     b64      `json:"digest"`
}

// segmentDigest is the digest of the volume's key: validate saw that there is
// exactly one.
func (m *metadata) segmentDigest() digest {
	return m.Digests[m.segmentDigestID()]
}

func (m *metadata) segmentDigestID() string {
	for id, d := range m.Digests {
		if slices.Contains(d.Segments, "0") {
			return id
		}
	}
	return ""
}

type config struct {
	JSONSize     u64           `json:"json_size"`
	KeyslotsSize u64           `json:"keyslots_size"`
	Flags        []string      `json:"flags,omitempty"`
	Requirements *requirements `json:"requirements,omitempty"`
}

type requirements struct {
	Mandatory []string `json:"mandatory"`
}

// token is what a token of any type has; the rest belongs to its type and is
// kept unread in fields.
type token struct {
	keyslots []string
	fields   map[string]json.RawMessage
}

func readToken(raw json.RawMessage) (t token, err error) {
	if err := json.Unmarshal(raw, &t.fields); err != nil {
		return t, err
	}
	var kind string
	if err := json.Unmarshal(t.fields["type"], &kind); err != nil || kind == "" {
		return t, errors.New("without a type")
	}
	if err := json.Unmarshal(t.fields["keyslots"], &t.keyslots); err != nil || t.keyslots == nil {
		return t, errors.New("without a list of keyslots")
	}
	return t, nil
}

// b64 is bytes in padded base64, in its one canonical spelling.
type b64 []byte

func (b *b64) UnmarshalJSON(in []byte) error {
	var s string
	if err := json.Unmarshal(in, &s); err != nil {
		return err
	}
	out, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(out) != s {
		return errors.New("not canonical base64")
	}
	*b = out
	return nil
}

// u64 is a number written as a decimal string, no larger than an int64.
type u64 int64

func (u u64) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, strconv.FormatInt(int64(u), 10)), nil
}

func (u *u64) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	n, err := decimal(s)
	if err != nil {
		return err
	}
	*u = u64(n)
	return nil
}

func decimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.24q is not a canonical decimal number below 2^63", s)
	}
	return n, nil
}

// maxDepth bounds the nesting of the JSON area; cryptsetup's own is at most 5.
const maxDepth = 16

// decodeMetadata parses the JSON area: unknown fields, duplicate keys, keys
// that differ from the format's only in case, and anything after the object
// are errors. Tokens are kept unread.
func decodeMetadata(text []byte) (*metadata, error) {
	if err := checkKeys(text); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var m metadata
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON object")
	}
	return &m, nil
}

// checkKeys walks the tokens for what encoding/json lets pass.
func checkKeys(text []byte) error {
	type frame struct {
		object bool
		key    bool // a key comes next
		seen   map[string]bool
		path   string
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var stack []frame
	last := ""
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		top := len(stack) - 1
		if top >= 0 && stack[top].object && stack[top].key {
			if k, ok := t.(string); ok {
				if stack[top].seen[k] {
					return fmt.Errorf("duplicate key %.32q", k)
				}
				stack[top].seen[k] = true
				if k != strings.ToLower(k) && !strings.HasPrefix(stack[top].path, "/tokens") {
					return fmt.Errorf("key %.32q is not in lower case", k)
				}
				stack[top].key = false
				last = k
				continue
			}
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			path := ""
			if top >= 0 {
				path = stack[top].path
				if stack[top].object {
					path += "/" + last
				}
			}
			stack = append(stack, frame{object: t == json.Delim('{'), key: true, seen: map[string]bool{}, path: path})
			if len(stack) > maxDepth {
				return errors.New("nested too deeply")
			}
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if n := len(stack); n > 0 {
			stack[n-1].key = true
		} else if d.More() {
			return errors.New("text after the JSON object")
		}
	}
}

// maxObjects is how many keyslots, tokens, segments or digests cryptsetup
// knows (LUKS2_KEYSLOTS_MAX and its like).
const maxObjects = 32

// ids returns the keys of a LUKS2 object in numeric order.
func ids[T any](m map[string]T) ([]string, error) {
	out := make([]string, 0, len(m))
	for id := range m {
		if n, err := decimal(id); err != nil || n >= maxObjects {
			return nil, fmt.Errorf("id %.8q is not a number from 0 to 31", id)
		}
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return out, nil
}
