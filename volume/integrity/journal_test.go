package integrity_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"cloister/secret"
	"cloister/volume/integrity"
	"cloister/volume/integrity/integritytest"
)

// journalled is a volume of 1 MiB in memory, all of zeros, with an empty journal.
type journalled struct {
	area   []byte
	layout integrity.Layout
	key    secret.Bytes
	*integritytest.Journal
}

func newJournalled(t testing.TB) journalled {
	t.Helper()
	l, key := layout(t, 1<<20), secret.New(bytes.Repeat([]byte{7}, integrity.KeySize))
	area := make([]byte, l.AreaSize())
	copy(area, l.Head())
	write(t, at(area), l, key, make([]byte, l.Size()), 0)
	return journalled{area, l, key, integritytest.NewJournal(area, l, key)}
}

// first is the first byte of a sector as it is read, or the error.
func (j journalled) first(n int64) (byte, error) {
	r, err := integrity.NewReader(bytes.NewReader(j.area), j.layout, j.key)
	if err != nil {
		return 0, err
	}
	b := make([]byte, sector)
	err = r.Opener().Read(b, n*sector)
	return b[0], err
}

func (j journalled) want(t *testing.T, n int64, first byte) {
	t.Helper()
	if got, err := j.first(n); err != nil || got != first {
		t.Errorf("sector %d reads %d, %v; want %d", n, got, err, first)
	}
}

// put commits one section that sets sectors to a value.
func (j journalled) put(first byte, sectors ...int64) int {
	var all []integritytest.Sector
	for _, n := range sectors {
		all = append(all, integritytest.Sector{Off: n * sector, Plain: bytes.Repeat([]byte{first}, sector)})
	}
	return j.Commit(all...)
}

func TestWhatIsInTheJournalCountsOverTheSectorInPlace(t *testing.T) {
	j := newJournalled(t)
	j.want(t, 3, 0)
	j.put(1, 3, 4, 5)
	j.want(t, 2, 0)
	j.want(t, 3, 1)
	j.put(2, 3)
	j.want(t, 3, 2)
	j.want(t, 4, 1)
	// The sector in place was being overwritten.
	clear(j.area[j.layout.SectorAt(3*sector):][:sector])
	j.want(t, 3, 2)
}

func TestTheNewestOfManyLapsCounts(t *testing.T) {
	j := newJournalled(t)
	for round := range 10 * j.Sections() {
		j.put(byte(round), 3, int64(10+round%5))
		j.want(t, 3, byte(round))
		j.want(t, int64(10+round%5), byte(round))
	}
}

func TestASectionThatWasWrittenInPartDoesNotCount(t *testing.T) {
	for laps := range 9 {
		j := newJournalled(t)
		value := byte(1)
		for range laps*j.Sections()/2 + 1 {
			j.put(value, 3)
			value++
		}
		before := bytes.Clone(j.area)
		n := j.put(value, 3)
		for _, written := range []int{1, 7, 8, 9, 100, 263} {
			torn := j
			torn.area = bytes.Clone(before)
			from := integrity.SuperblockSize + n*264*512
			copy(torn.area[from:][:written*512], j.area[from:])
			torn.want(t, 3, value-1)
		}
		j.want(t, 3, value)
	}
}

func TestAnAlteredJournalIsRefused(t *testing.T) {
	j := newJournalled(t)
	for i := range 3 {
		j.put(byte(1+i), 3, int64(4+i))
	}
	for name, alter := range map[string]func(section []byte){
		"a commit id":             func(s []byte) { s[512*20+510] ^= 1 },
		"a sector's bytes":        func(s []byte) { s[8*512+100] ^= 1 },
		"a sector's last bytes":   func(s []byte) { s[8+3] ^= 1 },
		"a tag":                   func(s []byte) { s[80] ^= 1 },
		"an IV":                   func(s []byte) { s[110] ^= 1 },
		"a number":                func(s []byte) { s[0] = 9 * 8 },
		"a number between":        func(s []byte) { s[0]++ },
		"a number far outside":    func(s []byte) { s[3] = 1 },
		"a number as if it grows": func(s []byte) { copy(s[4:], "\xfe\xff\xff\xff") },
	} {
		b := bytes.Clone(j.area)
		alter(j.Section(2))
		if got, err := j.first(3); !errors.Is(err, integrity.ErrAltered) {
			t.Errorf("%s: sector 3 reads %d, %v", name, got, err)
		}
		copy(j.area, b)
	}
	j.want(t, 3, 3)
	// Of a section in another place, and from another volume.
	b := bytes.Clone(j.area)
	copy(j.Section(1), j.Section(2))
	if _, err := j.first(3); !errors.Is(err, integrity.ErrAltered) {
		t.Errorf("a section in another place: %v", err)
	}
	copy(j.area, b)
	other := newJournalled(t)
	other.key.Reveal()[80] ^= 1
	other.put(9, 3)
	copy(j.Section(0), other.Section(0))
	if got, err := j.first(3); !errors.Is(err, integrity.ErrAltered) && got != 3 {
		t.Errorf("a section of another key: %d, %v", got, err)
	}
}

// FuzzJournal lets an attacker write anything over a journal in which sector 3
// was set three times: it then reads as it once was, or is an error.
func FuzzJournal(f *testing.F) {
	j := newJournalled(f)
	for i := range byte(3) {
		j.put(1+i, 3, 4)
	}
	whole := bytes.Clone(j.area)
	f.Add(integrity.SuperblockSize+512-8, []byte{0x11})
	f.Add(integrity.SuperblockSize+2*264*512, []byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, where int, what []byte) {
		if where < 0 || where > len(whole)-len(what) {
			return
		}
		b := bytes.Clone(whole)
		copy(b[where:], what)
		got, err := journalled{area: b, layout: j.layout, key: j.key}.first(3)
		if err == nil && got > 3 || err != nil && !errors.Is(err, integrity.ErrAltered) {
			t.Fatal(fmt.Sprint(got), err)
		}
	})
}
