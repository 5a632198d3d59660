package search

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// value holds bytes that base64 and base64url write differently at each phase.
var value = append([]byte("a known string \xfb\xef\xbe\xff\xfe\xfd>>>???"), 0xff, 0xfb, 0xff, 0xbf)

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32()) | 0x80 // never part of an ASCII form
	}
	return b
}

func searched(t *testing.T, data []byte, needles ...Needle) Report {
	t.Helper()
	m, err := NewMatcher(needles)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Search(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEachFormIsFoundWhereItIsAndNowhereElse(t *testing.T) {
	for _, form := range Forms {
		data := noise(1, 100_000)
		at := 54_321
		copy(data[at:], Encode(form, value))
		r := searched(t, data, Needle{"it", value}, Needle{"other", []byte("something that is not there")})
		if len(r.Hits) != 1 || r.Hits[0] != (Hit{"it", form, int64(at)}) {
			t.Errorf("%s: hits %v", form, r.Hits)
		}
		if r.Bytes != int64(len(data)) {
			t.Errorf("%s: searched %d of %d bytes", form, r.Bytes, len(data))
		}
	}
}

func TestBase64IsFoundWhateverStandsBeforeAndAfterTheValue(t *testing.T) {
	for before := range 7 {
		for after := range 4 {
			for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				text := noise(2, before)
				text = append(append(text, value...), noise(3, after)...)
				r := searched(t, []byte(e.EncodeToString(text)), Needle{"it", value})
				if len(r.Hits) != 1 {
					t.Errorf("%d bytes before and %d after: hits %v", before, after, r.Hits)
				}
			}
		}
	}
}

func TestAValueAcrossTheBorderOfTwoWindowsIsFoundOnce(t *testing.T) {
	m, err := NewMatcher([]Needle{{"it", value}})
	if err != nil {
		t.Fatal(err)
	}
	first := windowSize + m.longest() // the first window's size
	for _, form := range Forms {
		pattern := Encode(form, value)
		for _, shift := range []int{0, 1, len(pattern) / 2, len(pattern) - 1, len(pattern), m.longest()} {
			data := bytes.Repeat([]byte{0xaa}, first+windowSize) // zeros would be half of a UTF-16 character
			copy(data[first-shift:], pattern)
			r, err := m.Search(t.Context(), bytes.NewReader(data), int64(len(data)))
			if err != nil || len(r.Hits) != 1 || r.Hits[0].Offset != int64(first-shift) {
				t.Errorf("%s, %d bytes before the border: %v %v", form, shift, r.Hits, err)
			}
		}
	}
}

func TestAValueAtTheVeryStartAndEndIsFound(t *testing.T) {
	data := append(append(bytes.Clone(value), noise(4, 1000)...), value...)
	if r := searched(t, data, Needle{"it", value}); len(r.Hits) != 2 {
		t.Errorf("hits %v", r.Hits)
	}
}

func TestAValueWithZerosIsFoundAmongZeros(t *testing.T) {
	for at := range 4 {
		for n := 1; n <= 8; n++ {
			v := bytes.Clone(value)
			clear(v[at : at+n])
			var data []byte
			want := make(map[int64]string)
			for gap := range 40 {
				for _, form := range Forms {
					data = append(data, make([]byte, gap)...)
					want[int64(len(data))] = form
					data = append(data, Encode(form, v)...)
				}
			}
			for _, h := range searched(t, data, Needle{"it", v}, Needle{"other", noise(5, 16)}).Hits {
				delete(want, h.Offset)
			}
			if len(want) > 0 {
				t.Errorf("%x was not found at %v", v, want)
			}
		}
	}
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-cq")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAValueInsideGzipAndZstdIsFound(t *testing.T) {
	text := bytes.Repeat(append([]byte("line of text "), value...), 3)
	for name, packed := range map[string][]byte{
		"gzip:raw": gz(t, text), "zstd:raw": zst(t, text), "zstd:gzip:raw": zst(t, gz(t, text)), "gzip:zstd:raw": gz(t, zst(t, text)),
	} {
		data := append(append(noise(5, 10_000), packed...), noise(6, 10_000)...)
		r := searched(t, data, Needle{"it", value})
		if n := r.Count()["it"][name]; n < 1 {
			t.Errorf("%s: found %d times: %v", name, n, r.Hits)
		}
	}
}

func TestATruncatedMemberIsSearchedAsFarAsItGoes(t *testing.T) {
	text := append(append(bytes.Clone(value), noise(7, 300_000)...), value...)
	for _, packed := range [][]byte{gz(t, text), zst(t, text)} {
		if r := searched(t, packed[:len(packed)*9/10], Needle{"it", value}); len(r.Hits) == 0 {
			t.Error("nothing found")
		}
	}
}

func TestAMagicNumberAcrossTheBorderOfTwoWindowsIsSeen(t *testing.T) {
	m, err := NewMatcher([]Needle{{"it", value}})
	if err != nil {
		t.Fatal(err)
	}
	for back := range 6 {
		data := make([]byte, windowSize+m.longest()-back)
		data = append(append(data, gz(t, value)...), make([]byte, 100)...)
		r, err := m.Search(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil || r.Count()["it"]["gzip:raw"] != 1 {
			t.Errorf("%d bytes before the border: %v %v", back, r.Hits, err)
		}
	}
}

func TestAShortNeedleIsRefused(t *testing.T) {
	if _, err := NewMatcher([]Needle{{"short", []byte("fifteen letters")}}); err == nil {
		t.Error("accepted")
	}
	if _, err := NewMatcher(nil); err == nil {
		t.Error("no needle at all was accepted")
	}
}

func FuzzAPlantedValueIsFound(f *testing.F) {
	f.Add([]byte("before"), uint8(3), []byte("after"))
	f.Fuzz(func(t *testing.T, before []byte, form uint8, after []byte) {
		p := Encode(Forms[int(form)%len(Forms)], value)
		data := append(append(bytes.Clone(before), p...), after...)
		for _, h := range searched(t, data, Needle{"it", value}).Hits {
			if h.Offset == int64(len(before)) {
				return
			}
		}
		t.Errorf("%s at %d not found", Forms[int(form)%len(Forms)], len(before))
	})
}

func BenchmarkMemoryOfAGuest(b *testing.B) {
	var needles []Needle
	for i := range 20 {
		n := noise(uint64(i), 32)
		n[i] = 0 // of so many random keys, some have one
		needles = append(needles, Needle{"n", n})
	}
	m, err := NewMatcher(needles)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<20)
	copy(data[32<<20:], noise(99, 16<<20))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := m.Search(b.Context(), bytes.NewReader(data), int64(len(data))); err != nil {
			b.Fatal(err)
		}
	}
}
