package luks2

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/secret"
)

const testPass = "correct horse"

// quick are key derivations of every type, of little cost.
var quick = map[string]KDF{
	"argon2id": {Type: "argon2id", Memory: 16 << 10, Passes: 4, Threads: 4},
	"argon2i":  {Type: "argon2i", Memory: 16 << 10, Passes: 4, Threads: 2},
	"pbkdf2":   {Type: "pbkdf2", Iterations: 2000},
}

func (k KDF) formatArgs() []string {
	if k.Type == "pbkdf2" {
		return []string{"--pbkdf", k.Type, "--pbkdf-force-iterations", fmt.Sprint(k.Iterations)}
	}
	return []string{"--pbkdf", k.Type, "--pbkdf-force-iterations", fmt.Sprint(k.Passes), "--pbkdf-memory", fmt.Sprint(k.Memory), "--pbkdf-parallel", fmt.Sprint(k.Threads)}
}

// format makes a volume by cryptsetup with the passphrase testPass.
func format(t testing.TB, args ...string) (path, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	path, keyFile = filepath.Join(dir, "v"), filepath.Join(dir, "k")
	writeFile(t, keyFile, []byte(testPass))
	writeFile(t, path, nil)
	if err := os.Truncate(path, 20<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "cryptsetup", append([]string{"luksFormat", "--type", "luks2", "-q", "--key-file", keyFile, path}, args...)...)
	return path, keyFile
}

// volumeKey lets cryptsetup take the volume key out with what keyFile holds.
func volumeKey(t testing.TB, path, keyFile string) secret.Bytes {
	t.Helper()
	out := filepath.Join(t.TempDir(), "vk")
	run(t, "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--volume-key-file", out, "--key-file", keyFile, path)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(b)
}

// device opens a volume for changes.
func device(t testing.TB, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, st.Size()
}

func TestWeOpenAndChangeWhatCryptsetupWritesAndCryptsetupOpensTheResult(t *testing.T) {
	for name, k := range quick {
		for sector, bits := range map[string]string{"512": "512", "1024": "256", "2048": "256", "4096": "512"} {
			t.Run(name+"-"+sector+"-"+bits, func(t *testing.T) {
				path, keyFile := format(t, append(k.formatArgs(), "--sector-size", sector, "--key-size", bits)...)
				changeByTurns(t, path, keyFile, k)
			})
		}
	}
	for name, args := range map[string][]string{
		"defaults":   {"--iter-time", "200"},
		"sha512":     {"--pbkdf", "pbkdf2", "--hash", "sha512", "--pbkdf-force-iterations", "1000"},
		"big-header": {"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-metadata-size", "64k", "--label", "ward 7", "--subsystem", "trial"},
	} {
		t.Run(name, func(t *testing.T) {
			path, keyFile := format(t, args...)
			changeByTurns(t, path, keyFile, quick["argon2id"])
		})
	}
}

// changeByTurns opens, adds, changes and removes keyslots with our code and
// asks cryptsetup after each step.
func changeByTurns(t *testing.T, path, keyFile string, k KDF) {
	t.Helper()
	want := volumeKey(t, path, keyFile)
	h, f := open(t, path)
	got, by, err := h.UnlockedBy(f, secret.New([]byte(testPass)))
	if err != nil || !got.Equal(want) || by != 0 {
		t.Fatalf("unlocking what cryptsetup wrote: keyslot %d, %v", by, err)
	}
	if _, err := h.Unlock(f, secret.New([]byte("wrong"))); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a wrong passphrase gave %v", err)
	}
	d, size := device(t, path)
	second := filepath.Join(t.TempDir(), "second")
	opens := func(with string, ok bool) {
		t.Helper()
		writeFile(t, second, []byte(with))
		if ok {
			if !volumeKey(t, path, second).Equal(want) {
				t.Errorf("%q gave cryptsetup another volume key", with)
			}
		} else if exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", second, path).Run() == nil {
			t.Errorf("cryptsetup opens with %q", with)
		}
	}
	id, err := AddKeyslot(rand.Reader, d, size, want, secret.New([]byte("added")), k)
	if err != nil || id != 1 {
		t.Fatalf("keyslot %d, %v", id, err)
	}
	opens("added", true)
	opens(testPass, true)
	if err := ChangeKeyslot(rand.Reader, d, size, id, want, secret.New([]byte("changed")), k); err != nil {
		t.Fatal(err)
	}
	opens("changed", true)
	opens("added", false)
	if err := RemoveKeyslot(rand.Reader, d, size, 0); err != nil {
		t.Fatal(err)
	}
	opens(testPass, false)
	opens("changed", true)
	if err := RemoveKeyslot(rand.Reader, d, size, id); !errors.Is(err, ErrLastKeyslot) {
		t.Errorf("removing the last keyslot: %v", err)
	}
	// The secondary header alone.
	if _, err := d.WriteAt(make([]byte, binarySize), 0); err != nil {
		t.Fatal(err)
	}
	opens("changed", true) // cryptsetup repairs the primary header by the way
	again, _ := open(t, path)
	if again.UUID != h.UUID || again.Label != h.Label || again.disk.subsystem != h.disk.subsystem || again.SectorSize != h.SectorSize ||
		again.PayloadOffset != h.PayloadOffset || again.PayloadSize != h.PayloadSize || len(again.Keyslots) != 1 {
		t.Errorf("the changes left %+v of %+v", again, h)
	}
}

func TestCryptsetupOpensEveryKeyslotThatWeAddToAVolumeOfOurs(t *testing.T) {
	vk, kk := newKeys(t)
	path := newVolume(t, Params{UUID: testUUID, Label: "x"}, vk, kk)
	d, size := device(t, path)
	for i, name := range []string{"argon2id", "pbkdf2"} { // PayloadOffset leaves room for three
		if id, err := AddKeyslot(rand.Reader, d, size, vk, secret.New([]byte(name)), quick[name]); err != nil || id != i+1 {
			t.Fatalf("keyslot %d, %v", id, err)
		}
	}
	if _, err := AddKeyslot(rand.Reader, d, size, vk, kk, RandomKey); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a fourth keyslot: %v", err)
	}
	key := filepath.Join(t.TempDir(), "k")
	for _, pass := range []string{"argon2id", "pbkdf2", string(kk.Reveal())} {
		writeFile(t, key, []byte(pass))
		if !volumeKey(t, path, key).Equal(vk) {
			t.Errorf("%.8q gave another volume key", pass)
		}
	}
	dump := run(t, "cryptsetup", "luksDump", path)
	for _, want := range []string{"argon2id", "Memory:     16384", "Iterations: 2000", "Iterations: 1000"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump does not show %q:\n%s", want, dump)
		}
	}
}

func TestTokensOutliveChangesAndForgetRemovedKeyslots(t *testing.T) {
	path, keyFile := format(t, quick["pbkdf2"].formatArgs()...)
	json := `{"type":"ward","keyslots":["0"],"Room":{"no":7}}`
	cmd := exec.Command("cryptsetup", "token", "import", path)
	cmd.Stdin = strings.NewReader(json)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vk := volumeKey(t, path, keyFile)
	d, size := device(t, path)
	if _, err := AddKeyslot(rand.Reader, d, size, vk, secret.New([]byte("b")), quick["pbkdf2"]); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "cryptsetup", "token", "export", "--token-id", "0", path); strings.TrimSpace(got) != json {
		t.Errorf("the token became %s", got)
	}
	if err := RemoveKeyslot(rand.Reader, d, size, 0); err != nil {
		t.Fatal(err)
	}
	got := run(t, "cryptsetup", "token", "export", "--token-id", "0", path)
	if !strings.Contains(got, `"keyslots":[]`) || !strings.Contains(got, `"Room":{"no":7}`) {
		t.Errorf("the token became %s", got)
	}
	writeFile(t, keyFile, []byte("b"))
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, path)
}

func TestADamagedHeaderIsRepairedFromTheOtherAndCryptsetupAgrees(t *testing.T) {
	path, keyFile := format(t, quick["argon2id"].formatArgs()...)
	for name, at := range map[string]int64{"primary": 0, "secondary": headerSize} {
		d, size := device(t, path)
		if _, err := d.WriteAt(bytes.Repeat([]byte{0xAA}, headerSize/2), at); err != nil {
			t.Fatal(err)
		}
		h, _ := open(t, path)
		if (h.Primary != nil) != (at == 0) || (h.Secondary != nil) != (at != 0) {
			t.Errorf("%s damaged: %v, %v", name, h.Primary, h.Secondary)
		}
		if did, err := Repair(rand.Reader, d, size); !did || err != nil {
			t.Errorf("%s: %v, %v", name, did, err)
		}
		if h, _ := open(t, path); h.Primary != nil || h.Secondary != nil {
			t.Errorf("%s after the repair: %v, %v", name, h.Primary, h.Secondary)
		}
		if did, err := Repair(rand.Reader, d, size); did || err != nil {
			t.Errorf("%s, a second repair: %v, %v", name, did, err)
		}
		// Each copy alone must serve cryptsetup. It writes to neither: the file
		// is a copy.
		for _, lost := range []int64{0, headerSize} {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			clear(b[lost : lost+binarySize])
			alone := filepath.Join(t.TempDir(), "alone")
			writeFile(t, alone, b)
			run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, alone)
		}
	}
}

func TestOtherCiphersAndHashesAreNamedAndRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"aes-cbc-essiv:sha256": {"--cipher", "aes-cbc-essiv:sha256"},
		"aes-xts-plain":        {"--cipher", "aes-xts-plain"},
		"sha1":                 {"--hash", "sha1"},
	} {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			path, key := filepath.Join(dir, "v"), filepath.Join(dir, "k")
			writeFile(t, key, []byte(testPass))
			writeFile(t, path, make([]byte, 20<<20))
			out, err := exec.Command("cryptsetup", append([]string{"luksFormat", "--type", "luks2", "-q", "--key-file", key, path, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("cryptsetup cannot make it here: %v: %s", err, out)
			}
			f, size := device(t, path)
			if _, err := Read(f, size); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to name %s", err, want)
			}
		})
	}
}
