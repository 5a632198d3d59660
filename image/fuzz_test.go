package image

import (
	"bytes"
	"testing"

	"github.com/sylabs/sif/v2/pkg/sif"
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
		if err == nil && (k.none() || len(k.Fingerprints()) > MaxKeys) {
			t.Errorf("accepted %d keys", len(k.ring))
		}
	})
}

// FuzzEnvelope replaces a DSSE signature object's bytes: the image is refused
// unless they say the same.
func FuzzEnvelope(f *testing.F) {
	signer, key := pemSigner(f, "ed25519")
	keys := pemKeys(f, key)
	raw := signDSSE(f, build(f, primary(f, sif.FsSquash, squashfs(1024), "amd64")), signer)
	at, end := bytes.Index(raw, []byte(`{"payloadType"`)), len(raw)
	good := parseEnvelope(raw[at:end])
	f.Add(bytes.Clone(raw[at:end]))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		r := bytes.Clone(raw)
		if copy(r[at:end], envelope) < end-at {
			clear(r[at+len(envelope) : end])
		}
		_, err := check(r, keys)
		e := parseEnvelope(r[at:end])
		if err == nil && (e == nil || !bytes.Equal(e.Payload, good.Payload) || len(e.Signatures) != 1) {
			t.Errorf("accepted %q", r[at:end])
		}
	})
}
