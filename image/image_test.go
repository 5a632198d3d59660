package image

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// reasons are all that Verify may refuse for.
var reasons = []error{ErrNotSIF, ErrMalformed, ErrUnsigned, ErrAltered, ErrUnknownKey, ErrExpiredKey,
	ErrExtraObject, ErrNoPartition, ErrEncrypted, ErrFileSystem, ErrArchitecture}

// want checks that err wraps the one reason and no other.
func want(t *testing.T, what string, err, reason error) {
	t.Helper()
	for _, r := range reasons {
		if errors.Is(err, r) != (r == reason) {
			t.Errorf("%s: got %v, want %v", what, err, reason)
			return
		}
	}
	if (err == nil) != (reason == nil) {
		t.Errorf("%s: got %v, want %v", what, err, reason)
	}
}

func newKey(t testing.TB, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(lifetime.Seconds()), Time: dayAgo})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func dayAgo() time.Time { return time.Now().Add(-24 * time.Hour) }

func public(t testing.TB, entities ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entities {
		if err := e.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func keysOf(t testing.TB, entities ...*openpgp.Entity) *Keys {
	t.Helper()
	k, err := ParseKeys(public(t, entities...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// squashfs is a file system by its superblock only, which is all that is read.
func squashfs(size int) []byte {
	b := bytes.Repeat([]byte{0xa5}, size)
	copy(b, "hsqs")
	copy(b[28:], []byte{4, 0, 0, 0})
	copy(b[40:], []byte{byte(size), byte(size >> 8), byte(size >> 16), 0, 0, 0, 0, 0})
	return b
}

func input(t testing.TB, kind sif.DataType, data []byte, opts ...sif.DescriptorInputOpt) sif.DescriptorInput {
	t.Helper()
	in, err := sif.NewDescriptorInput(kind, bytes.NewReader(data), append([]sif.DescriptorInputOpt{sif.OptObjectAlignment(8)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func primary(t testing.TB, fs sif.FSType, data []byte, arch string) sif.DescriptorInput {
	return input(t, sif.DataPartition, data, sif.OptPartitionMetadata(fs, sif.PartPrimSys, arch))
}

func build(t testing.TB, objects ...sif.DescriptorInput) *sif.Buffer {
	t.Helper()
	var b sif.Buffer
	if _, err := sif.CreateContainer(&b, sif.OptCreateWithDescriptorCapacity(8), sif.OptCreateWithDescriptors(objects...)); err != nil {
		t.Fatal(err)
	}
	return &b
}

// edit loads the container and lets fn change it.
func edit(t testing.TB, b *sif.Buffer, fn func(*sif.FileImage) error) []byte {
	t.Helper()
	img, err := sif.LoadContainer(b, sif.OptLoadWithCloseOnUnload(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := fn(img); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func sign(t testing.TB, b *sif.Buffer, e *openpgp.Entity, opts ...integrity.SignerOpt) []byte {
	t.Helper()
	return edit(t, b, func(img *sif.FileImage) error {
		s, err := integrity.NewSigner(img, append(opts, integrity.OptSignWithEntity(e))...)
		if err != nil {
			return err
		}
		return s.Sign()
	})
}

func check(raw []byte, k *Keys) (Verdict, error) {
	return Verify(bytes.NewReader(raw), int64(len(raw)), k)
}

func TestASignedImageIsAcceptedAndItsVerdictNamesSignerAndPartition(t *testing.T) {
	e := newKey(t, 0)
	body := squashfs(4096)
	raw := sign(t, build(t, input(t, sif.DataDeffile, []byte("Bootstrap: scratch")), primary(t, sif.FsSquash, body, "amd64")), e)
	v, err := check(raw, keysOf(t, newKey(t, 0), e))
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Fingerprints) != 1 || v.Fingerprints[0] != fingerprint(e) || v.Objects != 2 || v.Partition.ID != 2 {
		t.Errorf("verdict %+v, signed by %s", v, fingerprint(e))
	}
	if !bytes.Equal(raw[v.Partition.Offset:v.Partition.Offset+v.Partition.Size], body) {
		t.Error("the verdict points at something that is not the partition")
	}
}

func TestWithoutAKeyTheShapeIsJudgedAndTheSignersAreClaimed(t *testing.T) {
	e, other := newKey(t, 0), newKey(t, 0)
	root := func() *sif.Buffer { return build(t, primary(t, sif.FsSquash, squashfs(4096), "amd64")) }
	raw := sign(t, root(), e)
	inspect := func(raw []byte) ([]string, error) { return Inspect(bytes.NewReader(raw), int64(len(raw))) }
	if claimed, err := inspect(raw); err != nil || len(claimed) != 1 || claimed[0] != fingerprint(e) {
		t.Errorf("claimed %v, %v", claimed, err)
	}
	_, err := inspect(root().Bytes())
	want(t, "unsigned", err, ErrUnsigned)
	_, err = inspect([]byte("#!/bin/sh\n"))
	want(t, "a script", err, ErrNotSIF)
	_, err = inspect(sign(t, build(t, primary(t, sif.FsSquash, squashfs(4096), "arm64")), e))
	want(t, "another architecture", err, ErrArchitecture)
	// It promises no more than that.
	v, err := check(raw, keysOf(t, e))
	if err != nil {
		t.Fatal(err)
	}
	raw[v.Partition.Offset+v.Partition.Size-1] ^= 1
	if _, err := inspect(raw); err != nil {
		t.Errorf("altered: %v", err)
	}
	_, err = check(raw, keysOf(t, e))
	want(t, "altered, with the key", err, ErrAltered)
	_, err = check(raw, keysOf(t, other))
	want(t, "altered, with another key", err, ErrUnknownKey)
}

func TestEachReasonForARefusalIsToldApart(t *testing.T) {
	e, stranger, expired := newKey(t, 0), newKey(t, 0), newKey(t, time.Hour)
	body := squashfs(4096)
	root := func() *sif.Buffer { return build(t, primary(t, sif.FsSquash, body, "amd64")) }
	label := func(opts ...sif.DescriptorInputOpt) sif.DescriptorInput {
		return input(t, sif.DataLabels, []byte("{}"), opts...)
	}
	add := func(b *sif.Buffer, in sif.DescriptorInput) []byte {
		return edit(t, b, func(img *sif.FileImage) error { return img.AddObject(in) })
	}
	signed := func(b *sif.Buffer) *sif.Buffer { sign(t, b, e); return b }
	var message bytes.Buffer
	w, err := clearsign.Encode(&message, e.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "{}")
	w.Close()
	sig := func(data []byte, opts ...sif.DescriptorInputOpt) sif.DescriptorInput {
		return input(t, sif.DataSignature, data, append(opts, sif.OptNoGroup(), sif.OptSignatureMetadata(crypto.SHA256, e.PrimaryKey.Fingerprint))...)
	}
	big := squashfs(4096)
	big[41]++ // claims 256 bytes more than there are

	for what, c := range map[string]struct {
		raw    []byte
		reason error
	}{
		"signed":                                        {sign(t, root(), e), nil},
		"signed twice by allowed keys":                  {sign(t, signed(root()), e), nil},
		"nothing":                                       {nil, ErrNotSIF},
		"a script":                                      {[]byte("#!/bin/sh\n" + strings.Repeat("#", 4096)), ErrNotSIF},
		"unsigned":                                      {root().Bytes(), ErrUnsigned},
		"unknown key":                                   {sign(t, root(), stranger), ErrUnknownKey},
		"also signed by an unknown key":                 {sign(t, signed(root()), stranger), ErrUnknownKey},
		"expired key":                                   {sign(t, root(), expired, integrity.OptSignWithTime(dayAgo)), ErrExpiredKey},
		"signature from the future":                     {sign(t, root(), e, integrity.OptSignWithTime(func() time.Time { return time.Now().Add(48 * time.Hour) })), ErrExpiredKey},
		"object added to the signed group":              {add(signed(root()), label()), ErrExtraObject},
		"object added to a group of its own":            {add(signed(root()), label(sif.OptGroupID(7))), ErrExtraObject},
		"object added to no group":                      {add(signed(root()), label(sif.OptNoGroup())), ErrExtraObject},
		"signature of one object only":                  {sign(t, build(t, primary(t, sif.FsSquash, body, "amd64"), label()), e, integrity.OptSignObjects(1)), ErrExtraObject},
		"signature linked to nothing":                   {add(signed(root()), sig(message.Bytes())), ErrExtraObject},
		"signature linked to one object":                {add(signed(root()), sig(message.Bytes(), sif.OptLinkedID(1))), ErrExtraObject},
		"signature linked to a group that is not there": {add(signed(root()), sig(message.Bytes(), sif.OptLinkedGroupID(9))), ErrExtraObject},
		"signature of something else":                   {add(signed(root()), sig(message.Bytes(), sif.OptLinkedGroupID(1))), ErrExtraObject},
		"signature with a tail":                         {add(signed(root()), sig(append(message.Bytes(), "evil"...), sif.OptLinkedGroupID(1))), ErrAltered},
		"signature that is junk":                        {add(signed(root()), sig([]byte("x"), sif.OptLinkedGroupID(1))), ErrAltered},
		"object removed":                                {edit(t, signed(build(t, primary(t, sif.FsSquash, body, "amd64"), label())), func(i *sif.FileImage) error { return i.DeleteObject(2) }), ErrAltered},
		"no partition":                                  {sign(t, build(t, label()), e), ErrNoPartition},
		"empty":                                         {build(t).Bytes(), ErrNoPartition},
		"encrypted by an ordinary user":                 {sign(t, build(t, primary(t, fsGocryptfs, body, "amd64")), e), nil},
		"encrypted by root":                             {sign(t, build(t, primary(t, sif.FsEncryptedSquashfs, body, "amd64")), e), ErrEncrypted},
		"ext3":                                          {sign(t, build(t, primary(t, sif.FsExt3, body, "amd64")), e), ErrFileSystem},
		"squashfs by name only":                         {sign(t, build(t, primary(t, sif.FsSquash, make([]byte, 4096), "amd64")), e), ErrFileSystem},
		"squashfs too short":                            {sign(t, build(t, primary(t, sif.FsSquash, body[:50], "amd64")), e), ErrFileSystem},
		"squashfs that reaches out of its place":        {sign(t, build(t, primary(t, sif.FsSquash, big, "amd64")), e), ErrFileSystem},
		"arm64":                                         {sign(t, build(t, primary(t, sif.FsSquash, body, "arm64")), e), ErrArchitecture},
	} {
		_, err := check(c.raw, keysOf(t, e, expired))
		want(t, what, err, c.reason)
		skimmed := Skim(bytes.NewReader(c.raw), int64(len(c.raw)), keysOf(t, e, expired))
		if skimmed != nil || c.reason != ErrAltered && c.reason != ErrExtraObject { // all that takes reading an object
			want(t, what+", skimmed", skimmed, c.reason)
		}
	}
	_, err = check(sign(t, root(), e), nil)
	want(t, "no keys at all", err, ErrUnknownKey)
	want(t, "no keys at all, skimmed", Skim(bytes.NewReader(nil), 0, nil), ErrUnknownKey)
	_, err = check(sign(t, root(), e), &Keys{})
	want(t, "an empty keyring", err, ErrUnknownKey)
}

func TestSkimmingReadsAsMuchOfALargeImageAsOfASmallOne(t *testing.T) {
	e := newKey(t, 0)
	read := func(size int) (n int64) {
		raw := sign(t, build(t, primary(t, sif.FsSquash, squashfs(size), "amd64")), e)
		if err := Skim(counting{bytes.NewReader(raw), &n}, int64(len(raw)), keysOf(t, e)); err != nil {
			t.Fatal(err)
		}
		return n
	}
	small, large := read(4096), read(8<<20)
	if large-small > 64 || small-large > 64 { // the signature's own length varies
		t.Errorf("%d bytes read of a small image, %d of a large one", small, large)
	}
}

type counting struct {
	r io.ReaderAt
	n *int64
}

func (c counting) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(b, off)
	*c.n += int64(n)
	return n, err
}

func TestARefusalForAnUnknownKeyNamesTheKey(t *testing.T) {
	stranger := newKey(t, 0)
	_, err := check(sign(t, build(t, primary(t, sif.FsSquash, squashfs(4096), "amd64")), stranger), keysOf(t, newKey(t, 0)))
	if err == nil || !strings.Contains(err.Error(), fingerprint(stranger)) {
		t.Errorf("%v does not name %s", err, fingerprint(stranger))
	}
}

func TestDigestIsTheSHA256OfTheWholeFile(t *testing.T) {
	sum := sha256.Sum256([]byte("abc"))
	if got, err := Digest(strings.NewReader("abc")); err != nil || got != hex.EncodeToString(sum[:]) {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := Digest(iotest.TimeoutReader(io.MultiReader(strings.NewReader("a"), strings.NewReader("b")))); err == nil {
		t.Error("a failed read gave a digest")
	}
}
