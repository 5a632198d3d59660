package image

import (
	"bytes"
	"testing"
)

// FuzzVerifyRefuses feeds bytes that no allowed key signed.
func FuzzVerifyRefuses(f *testing.F) {
	keys := keysOf(f, newKey(f, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := check(raw, keys); err == nil {
			t.Error("accepted what nobody signed")
		}
		if Skim(bytes.NewReader(raw), int64(len(raw)), keys) == nil {
			t.Error("skimmed what nobody signed")
		}
	})
}

// FuzzVerifyPatched overwrites a part of a signed image: it is refused, or the
// partition that would run is still the signed one.
func FuzzVerifyPatched(f *testing.F) {
	raw, keys, good := signedPair(f)
	body := bytes.Clone(raw[good.Partition.Offset : good.Partition.Offset+good.Partition.Size])
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		r := bytes.Clone(raw)
		copy(r[int(at)%len(r):], patch)
		v, err := check(r, keys)
		if err == nil && !bytes.Equal(r[v.Partition.Offset:v.Partition.Offset+v.Partition.Size], body) {
			t.Errorf("accepted another partition at %+v", v.Partition)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Fuzz(func(t *testing.T, armored []byte) {
		k, err := ParseKeys(armored)
		if err == nil && (len(k.ring) == 0 || len(k.ring) > MaxKeys) {
			t.Errorf("accepted %d keys", len(k.ring))
		}
	})
}
