package luks2

import (
	"bytes"
	"encoding/json"
	"testing"

	"cloister/secret"
)

// fuzzSize is that of the file which the fuzzed headers claim to describe: room
// for cryptsetup's payload offset of 16 MiB.
const fuzzSize = 20 << 20

// FuzzRead mutates the JSON area; the checksum around it is made right. The
// corpus has the areas of headers that cryptsetup 2.6.1 made. Whatever is
// accepted must be within its bounds, and stay valid when keyslots go.
func FuzzRead(f *testing.F) {
	vk, kk := newKeys(f)
	head, err := Encode(zeroes{}, Params{UUID: testUUID}, vk, kk)
	if err != nil {
		f.Fatal(err)
	}
	text := bytes.TrimRight(head[binarySize:headerSize], "\x00")
	f.Add(text)
	f.Add(bytes.Replace(text, []byte(`"dynamic"`), []byte(`"4096"`), 1))
	f.Add([]byte(`{}`))
	tags, err := Encode(zeroes{}, Params{UUID: testUUID, Authenticated: true}, secret.Alloc(AuthenticatedKeySize), kk)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimRight(tags[binarySize:headerSize], "\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > headerSize-binarySize {
			return
		}
		b := append(bytes.Clone(head[:headerSize]), make([]byte, 64<<10)...)
		clear(b[binarySize:headerSize])
		copy(b[binarySize:headerSize], text)
		fixSum(b[:headerSize])
		h, err := Read(bytes.NewReader(b), fuzzSize)
		if err != nil {
			return
		}
		if h.Cipher != cipherName && !h.Authenticated || h.Authenticated && h.Cipher != authenticatedCipher || h.PayloadSize <= 0 || h.PayloadOffset < 2*headerSize || h.PayloadOffset+h.PayloadSize > fuzzSize {
			t.Errorf("accepted %+v", h)
		}
		e := editor{size: fuzzSize, disk: *h.disk, meta: *h.disk.meta}
		for _, k := range h.Keyslots {
			if len(e.meta.segmentDigest().Keyslots) == 1 && k.Bound {
				continue
			}
			if err := e.forget(idText(k.ID)); err != nil {
				t.Fatal(err)
			}
		}
		text, err = json.Marshal(&e.meta)
		if err != nil {
			t.Fatal(err)
		}
		if e.disk.meta, err = decodeMetadata(text); err == nil {
			err = e.disk.validate(fuzzSize)
		}
		if err != nil {
			t.Errorf("without its keyslots it is refused: %v", err)
		}
	})
}

// FuzzBinary mutates the fields of the binary header, which end at byte 512;
// only zeros follow.
func FuzzBinary(f *testing.F) {
	vk, kk := newKeys(f)
	head, err := Encode(zeroes{}, Params{UUID: testUUID, Label: "x"}, vk, kk)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head[:512])
	f.Fuzz(func(t *testing.T, binary []byte) {
		if len(binary) > 512 {
			return
		}
		b := bytes.Clone(head[:headerSize])
		clear(b[:512])
		copy(b, binary)
		fixSum(b)
		h, err := Read(bytes.NewReader(b), fuzzSize)
		if err != nil {
			return
		}
		if printable(h.Label) != nil || ValidUUID(h.UUID) != nil || len(h.Label) > maxLabel {
			t.Errorf("accepted %+v", h)
		}
		if again := encodeCopy(*h.disk, b[offSalt:offUUID], false); !bytes.Equal(again, b) {
			t.Error("written again it is another header")
		}
	})
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }
