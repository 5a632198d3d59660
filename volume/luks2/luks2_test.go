package luks2

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"crypto/sha256"

	"cloister/secret"
)

const testUUID = "6f1b1c1e-2f0a-4d58-9d0f-0123456789ab"

func newKeys(t testing.TB) (volumeKey, keyslotKey secret.Bytes) {
	t.Helper()
	volumeKey, err := secret.Random(rand.Reader, VolumeKeySize)
	if err != nil {
		t.Fatal(err)
	}
	keyslotKey, err = secret.Random(rand.Reader, KeyslotKeySize)
	if err != nil {
		t.Fatal(err)
	}
	return volumeKey, keyslotKey
}

// newVolume writes a volume of 1 MiB payload and returns its path.
func newVolume(t testing.TB, p Params, vk, kk secret.Bytes) string {
	t.Helper()
	head, err := Encode(rand.Reader, p, vk, kk)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "v.luks")
	writeFile(t, path, head)
	if err := os.Truncate(path, PayloadOffset+(1<<20)); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a command of the host and fails the test when it fails, also when
// the command is missing: the oracle is part of the test.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func open(t testing.TB, path string) (*Header, *os.File) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h, f
}

func TestCryptsetupOpensWhatWeWriteAlsoFromTheSecondaryHeaderAlone(t *testing.T) {
	for _, size := range []int64{0, 512 << 10} {
		vk, kk := newKeys(t)
		path := newVolume(t, Params{Label: "patients", UUID: testUUID, PayloadSize: size}, vk, kk)
		keyFile := filepath.Join(t.TempDir(), "key")
		writeFile(t, keyFile, kk.Reveal())
		check := func() {
			t.Helper()
			run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, path)
			dump := run(t, "cryptsetup", "luksDump", path)
			for _, want := range []string{testUUID, "patients", "aes-xts-plain64", "sector: 4096", "offset: 1048576"} {
				if !strings.Contains(dump, want) {
					t.Errorf("luksDump does not show %q:\n%s", want, dump)
				}
			}
			volKey := filepath.Join(t.TempDir(), "vk")
			run(t, "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--volume-key-file", volKey, "--key-file", keyFile, path)
			got, err := os.ReadFile(volKey)
			if err != nil || !bytes.Equal(got, vk.Reveal()) {
				t.Errorf("cryptsetup took another volume key out of the keyslot (%v)", err)
			}
		}
		check()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, binarySize), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		h, r := open(t, path)
		if !h.FromSecondary {
			t.Error("the secondary header was not used")
		}
		if got, err := h.Unlock(r, kk); err != nil || !got.Equal(vk) {
			t.Errorf("unlocking through the secondary header: %v", err)
		}
		check()

		keyFile2 := filepath.Join(t.TempDir(), "wrong")
		writeFile(t, keyFile2, make([]byte, 32))
		if exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", keyFile2, path).Run() == nil {
			t.Error("cryptsetup opened with a wrong key: this test can't fail")
		}
	}
}

func TestCryptsetupAddsAKeyToWhatWeWroteAndWeOpenIt(t *testing.T) {
	vk, kk := newKeys(t)
	path := newVolume(t, Params{UUID: testUUID}, vk, kk)
	dir := t.TempDir()
	keyFile, second := filepath.Join(dir, "key"), filepath.Join(dir, "second")
	writeFile(t, keyFile, kk.Reveal())
	writeFile(t, second, []byte("another passphrase"))
	for range 2 { // PayloadOffset leaves room for three
		run(t, "cryptsetup", "luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", keyFile, path, second)
	}
	h, f := open(t, path)
	if len(h.Keyslots) != 3 {
		t.Errorf("keyslots %+v", h.Keyslots)
	}
	for _, pass := range []secret.Bytes{kk, secret.New([]byte("another passphrase"))} {
		if got, err := h.Unlock(f, pass); err != nil || !got.Equal(vk) {
			t.Errorf("unlocking: %v", err)
		}
	}
	if ok, err := h.CheckVolumeKey(vk); !ok || err != nil {
		t.Errorf("the volume key does not match its own digest: %v", err)
	}
	if ok, _ := h.CheckVolumeKey(secret.Alloc(64)); ok {
		t.Error("another volume key matches")
	}
}

// rewrite replaces text in both JSON areas and repairs the checksums.
func rewrite(t testing.TB, head []byte, old, new string) []byte {
	t.Helper()
	out := bytes.Clone(head)
	for _, at := range []int{0, headerSize} {
		c := out[at : at+headerSize]
		json := strings.TrimRight(string(c[binarySize:]), "\x00")
		if !strings.Contains(json, old) {
			t.Fatalf("%q is not in the JSON area: %s", old, json)
		}
		json = strings.Replace(json, old, new, 1)
		clear(c[binarySize:])
		copy(c[binarySize:], json)
		fixSum(c)
	}
	return out
}

func fixSum(c []byte) {
	clear(c[offSum : offSum+sumSize])
	sum := sha256.Sum256(c)
	copy(c[offSum:], sum[:])
}

func TestHostileHeadersAreRefusedWithTheirReason(t *testing.T) {
	vk, kk := newKeys(t)
	head, err := Encode(rand.Reader, Params{UUID: testUUID, PayloadSize: 1 << 20}, vk, kk)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(PayloadOffset + 1<<20)
	read := func(b []byte) error {
		b = append(bytes.Clone(b), make([]byte, size-int64(len(b)))...)
		_, err := Read(bytes.NewReader(b), size)
		return err
	}
	if err := read(head); err != nil {
		t.Fatalf("the header that all cases start from: %v", err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"encryption":"aes-xts-plain64","sector_size"`, `"encryption":"cipher_null-ecb","sector_size"`, "null cipher"},
		{`"encryption":"aes-xts-plain64","key_size"`, `"encryption":"cipher_null-ecb","key_size"`, "null cipher"},
		{`"encryption":"aes-xts-plain64","sector_size"`, `"encryption":"serpent-xts-plain64","sector_size"`, "serpent-xts-plain64"},
		{`"sector_size":4096`, `"sector_size":8192`, "sector size"},
		{`"sector_size":4096`, `"sector_size":4096,"integrity":{}`, "integrity"},
		{`"offset":"1048576"`, `"offset":"32768"`, "overlaps the header"},
		{`"offset":"1048576"`, `"offset":"01048576"`, "decimal"},
		{`"offset":"1048576"`, `"offset":"9223372036854775808"`, "decimal"},
		{`"offset":"1048576"`, `"offset":"1048577"`, "misaligned"},
		{`"size":"1048576"`, `"size":"2097152"`, "does not fit"},
		{`"size":"1048576"`, `"size":"0"`, "does not fit"},
		{`"offset":"32768"`, `"offset":"16384"`, "outside the keyslots area"},
		{`"size":"258048"`, `"size":"4096"`, "too small"},
		{`"size":"258048"`, `"size":"1048576"`, "outside the keyslots area"},
		{`"stripes":4000`, `"stripes":4`, "stripes"},
		{`"iv_tweak":"0"`, `"iv_tweak":"8"`, "iv_tweak"},
		{`"iterations":1000`, `"iterations":4294967295`, "iterations"},
		{`"iterations":1000`, `"iterations":1`, "iterations"},
		{`"tokens":{}`, `"tokens":{},"surprise":1`, "unknown field"},
		{`"tokens":{}`, `"tokens":{},"tokens":{}`, "duplicate"},
		{`"tokens":{}`, `"tokens":{},"Keyslots":{}`, "lower case"},
		{`"tokens":{}`, `"tokens":` + strings.Repeat("[", 40) + strings.Repeat("]", 40), "deep"},
		{`"json_size":"12288"`, `"json_size":"4096"`, "json_size"},
		{`"keyslots_size":"1015808"`, `"keyslots_size":"1015809"`, "keyslots_size"},
		{`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`, "online-reencrypt-v2"},
		{`"segments":["0"]`, `"segments":[]`, "digests"},
		{`"segments":["0"]`, `"segments":["1"]`, "no segment"},
		{`"keyslots":["0"]`, `"keyslots":["0","0"]`, "twice"},
		{`"digests":{"0"`, `"digests":{"1":{"type":"pbkdf2","keyslots":["0"],"segments":[],"hash":"sha256","iterations":1000,"salt":"AAAAAAAAAAA=","digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="},"0"`, "another digest"},
		{`"tokens":{}`, `"tokens":{"0":{"keyslots":[]}}`, "without a type"},
		{`"tokens":{}`, `"tokens":{"0":{"Type":"x","keyslots":[]}}`, "without a type"},
		{`"tokens":{}`, `"tokens":{"0":{"type":"x","Keyslots":["0"]}}`, "without a list"},
		{`"tokens":{}`, `"tokens":{"0":[]}`, "token 0"},
		{`"tokens":{}`, `"tokens":{"0":{"type":"x","keyslots":["9"]}}`, "no keyslot"},
		{`"tokens":{}`, `"tokens":{"32":{"type":"x","keyslots":[]}}`, "not a number from 0 to 31"},
		{`"salt":"`, `"salt":"\\n`, "base64"},
		{`"keyslots":["0"]`, `"keyslots":["7"]`, "no keyslot"},
		{`"type":"crypt"`, `"type":"linear"`, "linear"},
	} {
		err := read(rewrite(t, head, c.old, c.new))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: got %v, want it to say %q", c.new, c.old, err, c.want)
		}
	}
	for _, c := range []struct {
		mem, time, cpus int
		ok              bool
	}{{1 << 20, 4, 4, true}, {1 << 30, 4, 4, false}, {65536, 1 << 30, 4, false}, {65536, 4, 1 << 20, false}, {2 << 20, 60, 4, false}, {-1, 4, 4, false}} {
		k := kdf{Type: "argon2id", Salt: make([]byte, 32), Memory: int64(c.mem), Time: int64(c.time), CPUs: int64(c.cpus)}
		if err := k.validate(); (err == nil) != c.ok {
			t.Errorf("argon2id %+v: %v", c, err)
		}
	}
	binaryCases := map[string]func(c []byte){
		"version":     func(c []byte) { binary.BigEndian.PutUint16(c[offVersion:], 1) },
		"header size": func(c []byte) { binary.BigEndian.PutUint64(c[offHdrSize:], 1<<40) },
		"lies at":     func(c []byte) { binary.BigEndian.PutUint64(c[offHdrOffset:], 4096) },
		"uuid":        func(c []byte) { copy(c[offUUID:], "../../../etc/passwd\x00") },
		"label":       func(c []byte) { copy(c[offLabel:], "a\x1b[2J\x00") },
		"wants zeros": func(c []byte) { c[300] = 1 },
		"not support": func(c []byte) { copy(c[offChecksum:], "md5\x00\x00\x00") },
	}
	for want, change := range binaryCases {
		b := bytes.Clone(head)
		change(b[:headerSize])
		fixSum(b[:headerSize])
		clear(b[headerSize : headerSize+8])
		if err := read(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	b := bytes.Clone(head)
	b[5000] ^= 1
	b[headerSize+5000] ^= 1
	if err := read(b); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("flipped bit: %v", err)
	}
}

func TestANewerSecondaryHeaderCountsAndADamagedOneDoesNot(t *testing.T) {
	vk, kk := newKeys(t)
	head, err := Encode(rand.Reader, Params{UUID: testUUID}, vk, kk)
	if err != nil {
		t.Fatal(err)
	}
	b := append(head, make([]byte, 2<<20)...)
	second := b[headerSize : 2*headerSize]
	binary.BigEndian.PutUint64(second[offSeqID:], 9)
	if h, err := Read(bytes.NewReader(b), int64(len(b))); err != nil || h.FromSecondary {
		t.Errorf("a secondary header with a wrong checksum was used: %v", err)
	}
	fixSum(second)
	if h, err := Read(bytes.NewReader(b), int64(len(b))); err != nil || !h.FromSecondary || h.Sequence != 9 {
		t.Errorf("the newer secondary header was not used: %v", err)
	}
}

func TestASecondaryHeaderIsFoundBehindWhatOnlyLooksLikeOne(t *testing.T) {
	path, keyFile := format(t, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-metadata-size", "64k")
	d, _ := device(t, path)
	for at, b := range map[int64][]byte{0: make([]byte, binarySize), 16 << 10: secondaryMagic} {
		if _, err := d.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if h, _ := open(t, path); !h.FromSecondary || h.Secondary != nil {
		t.Errorf("secondary: %v", h.Secondary)
	}
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, path)
}

func TestAnEmptyOrForeignFileIsNotLUKS2(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("hello"), make([]byte, 5<<20)} {
		if _, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrNotLUKS2) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}
