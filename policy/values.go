package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"cloister/span"
)

// A Size is a number of bytes, written as a whole number and one of K, M, G,
// T: powers of 1024, as Slurm counts memory.
type Size int64

// units from the largest, so that String finds the shortest form.
var units = []struct {
	letter string
	bytes  int64
}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}

// ParseSize reads what String writes and nothing else.
func ParseSize(s string) (Size, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.letter)
		if !ok {
			continue
		}
		n, err := span.Whole(digits, math.MaxInt64/uint64(u.bytes))
		if err != nil {
			return 0, fmt.Errorf("size %q: %w", s, err)
		}
		return Size(int64(n) * u.bytes), nil
	}
	return 0, fmt.Errorf("size %q: not a whole number with K, M, G or T after it", s)
}

// UnmarshalText is ParseSize.
func (z *Size) UnmarshalText(b []byte) (err error) {
	*z, err = ParseSize(string(b))
	return err
}

// String is the number with the largest unit that divides it; bytes as they
// are if none does.
func (z Size) String() string {
	for _, u := range units {
		if z > 0 && int64(z)%u.bytes == 0 {
			return strconv.FormatInt(int64(z)/u.bytes, 10) + u.letter
		}
	}
	return strconv.FormatInt(int64(z), 10) + " bytes"
}

// A Duration is written as a whole number and one of s, m, h, d.
type Duration = span.Duration

// A PortRange is inclusive, written "60001-60010".
type PortRange struct{ First, Last uint16 }

// UnmarshalText reads what String writes.
func (r *PortRange) UnmarshalText(b []byte) error {
	first, last, ok := strings.Cut(string(b), "-")
	if !ok {
		return fmt.Errorf("port range %q: not of the form 60001-60010", b)
	}
	lo, err := span.Whole(first, math.MaxUint16)
	if err != nil {
		return fmt.Errorf("port range %q: %w", b, err)
	}
	hi, err := span.Whole(last, math.MaxUint16)
	if err != nil {
		return fmt.Errorf("port range %q: %w", b, err)
	}
	if lo > hi {
		return fmt.Errorf("port range %q: the first port is above the last", b)
	}
	*r = PortRange{uint16(lo), uint16(hi)}
	return nil
}

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }
