package analysis

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloister/image"
)

func keys(t *testing.T, keyring string) *image.Keys {
	t.Helper()
	b, err := os.ReadFile(keyring)
	if err != nil {
		t.Fatal(err)
	}
	k, err := image.ParseKeys(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func verify(t *testing.T, path, keyring string) (image.Verdict, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	v, err := image.Verify(f, info.Size(), keys(t, keyring))
	t.Logf("%s: %d bytes, checked in %v", filepath.Base(path), info.Size(), time.Since(start).Round(time.Millisecond))
	return v, err
}

func checkVariants(t *testing.T, p Paths) {
	t.Helper()
	if v, err := verify(t, p.SIF, p.Keyring); err != nil || v.Objects != 2 {
		t.Errorf("signed: %+v, %v", v, err)
	}
	if _, err := verify(t, p.Unsigned, p.Keyring); !errors.Is(err, image.ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
	if _, err := verify(t, p.Stranger, p.Keyring); !errors.Is(err, image.ErrUnknownKey) {
		t.Errorf("signed by a stranger: %v", err)
	}
}

func TestTheTinyImageVerifiesAndItsVariantsAreRefused(t *testing.T) {
	p, err := Tiny(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkVariants(t, p)
	info, err := os.Stat(p.SIF)
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("not tiny: %v, %v", info.Size(), err)
	}
	again, err := Tiny(t.Context())
	if err != nil || again != p {
		t.Errorf("a second call gave %+v, %v", again, err)
	}
}

func TestTheEncryptedImageVerifiesAndDoesNotShowWhatItHolds(t *testing.T) {
	path, key, err := Encrypted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tiny, err := Tiny(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := verify(t, path, tiny.Keyring); err != nil || v.Objects != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	text, err := os.ReadFile(key)
	if err != nil || !bytes.HasPrefix(text, []byte("-----BEGIN RSA PRIVATE KEY-----\n")) {
		t.Errorf("the key: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(b, []byte("-----BEGIN MESSAGE-----")) || bytes.Count(b, []byte("hsqs")) != 1 {
		t.Errorf("%d squashfs in the open, %v", bytes.Count(b, []byte("hsqs")), err)
	}
}

func TestAPaddedImageVerifiesAndTakesNoRoom(t *testing.T) {
	tiny, err := Tiny(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "padded.sif")
	if err := Padded(t.Context(), path, 300<<20); err != nil {
		t.Fatal(err)
	}
	if v, err := verify(t, path, tiny.Keyring); err != nil || v.Partition.Size != 300<<20 {
		t.Errorf("%+v, %v", v, err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > 8<<20 {
		t.Errorf("%d bytes on disk, %v", st.Blocks*512, err)
	}
}

func TestTheAnalysisImageVerifiesAndFitsIntoASecureNode(t *testing.T) {
	p, err := Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkVariants(t, p)
	// A node of 900 MB keeps a copy in memory.
	if info, err := os.Stat(p.SIF); err != nil || info.Size() > 80<<20 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

func TestTheAnalysisGivesTheSameBytesTwiceAndTheKnownResult(t *testing.T) {
	data := t.TempDir()
	if err := Dataset(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(t.TempDir(), "r"), filepath.Join(t.TempDir(), "r")
	for _, dir := range []string{first, second} {
		start := time.Now()
		if err := Run(t.Context(), data, dir); err != nil {
			t.Fatal(err)
		}
		t.Logf("one run: %v", time.Since(start).Round(time.Millisecond))
	}
	results := map[string][]byte{}
	for _, name := range []string{"survival.csv", "cox.txt", "survival.png"} {
		a, errA := os.ReadFile(filepath.Join(first, name))
		b, errB := os.ReadFile(filepath.Join(second, name))
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two runs", name)
		}
		results[name] = a
	}
	// The published analysis of these data: the sexes' medians, and the
	// hazard ratio of `coxph(Surv(time, status) ~ sex + age + ph.ecog, lung)`.
	for _, says := range []string{"patients 228, deaths 165", "male 270 days, female 426 days", "sexfemale      0.575445", "ph.ecog        1.589991"} {
		if !strings.Contains(string(results["cox.txt"]), says) {
			t.Errorf("cox.txt does not say %q:\n%s", says, results["cox.txt"])
		}
	}
	checkCurves(t, filepath.Join(data, "lung.csv"), string(results["survival.csv"]))
	plot, err := png.Decode(bytes.NewReader(results["survival.png"]))
	if err != nil {
		t.Fatal(err)
	}
	colours := map[any]bool{}
	for x := range plot.Bounds().Dx() {
		for y := range plot.Bounds().Dy() {
			colours[plot.At(x, y)] = true
		}
	}
	if plot.Bounds().Dx() != 900 || len(colours) < 20 {
		t.Errorf("the plot is %v with %d colours", plot.Bounds(), len(colours))
	}
}

func TestTheAnalysisRefusesDataThatItDoesNotUnderstand(t *testing.T) {
	for what, table := range map[string]string{
		"a missing column": "time,status,age,sex\n1,1,60,1\n",
		"text":             "time,status,age,sex,ph.ecog\nsoon,1,60,1,0\n",
		"another coding":   "time,status,age,sex,ph.ecog\n5,0,60,1,0\n",
	} {
		data := t.TempDir()
		os.Chmod(data, 0o755)
		if err := os.WriteFile(filepath.Join(data, "lung.csv"), []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Run(t.Context(), data, filepath.Join(t.TempDir(), "r")); err == nil || !strings.Contains(err.Error(), "analysis: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAFailedBuildLeavesNothingInTheCache(t *testing.T) {
	t.Setenv("CLOISTER_CACHE", t.TempDir())
	boom := errors.New("boom")
	if _, err := cached(t.Context(), "x", func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), boom)
	}); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(os.Getenv("CLOISTER_CACHE"), "x*"))
	if len(left) != 1 || filepath.Base(left[0]) != "x.lock" {
		t.Errorf("left: %v", left)
	}
}

func TestTheCacheIsMadeOnceHoweverManyAskAtOnce(t *testing.T) {
	t.Setenv("CLOISTER_CACHE", t.TempDir())
	var made int
	done := make(chan error)
	for range 5 {
		go func() {
			_, err := cached(t.Context(), "x", func(string) error {
				made++ // under the lock
				time.Sleep(50 * time.Millisecond)
				return nil
			})
			done <- err
		}()
	}
	for range 5 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

func TestWaitingForTheCacheEndsWithTheContext(t *testing.T) {
	t.Setenv("CLOISTER_CACHE", t.TempDir())
	path := filepath.Join(os.Getenv("CLOISTER_CACHE"), "x.lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := cached(ctx, "x", func(string) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
