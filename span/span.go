// Package span has the durations of Cloister's configuration files: 90s, 30m,
// 12h, 14d.
package span

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Duration is written as a whole number and one of s, m, h, d.
type Duration time.Duration

var spans = []struct {
	letter string
	span   time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// Parse reads what String writes, also with another of the units: 24h for 1d.
func Parse(s string) (Duration, error) {
	for _, u := range spans {
		digits, ok := strings.CutSuffix(s, u.letter)
		if !ok {
			continue
		}
		n, err := Whole(digits, math.MaxInt64/uint64(u.span))
		if err != nil {
			return 0, fmt.Errorf("duration %q: %w", s, err)
		}
		return Duration(time.Duration(n) * u.span), nil
	}
	return 0, fmt.Errorf("duration %q: not a whole number with s, m, h or d after it", s)
}

// UnmarshalText is Parse.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = Parse(string(b))
	return err
}

// String is the number with the largest unit that divides it.
func (d Duration) String() string {
	for _, u := range spans {
		if d > 0 && time.Duration(d)%u.span == 0 {
			return strconv.FormatInt(int64(time.Duration(d)/u.span), 10) + u.letter
		}
	}
	return time.Duration(d).String()
}

// CheckMaxExpiry refuses what is no sensible longest time between sealing and
// expiry: nodes remember job ids, and keys wait, for a year at most.
func (d Duration) CheckMaxExpiry() error {
	if d < Duration(time.Minute) || d > Duration(366*24*time.Hour) {
		return fmt.Errorf("max_expiry %s: not between 1m and 366d", d)
	}
	return nil
}

// Whole reads a whole number from 1 to max: digits only, no leading zero.
func Whole(s string, max uint64) (uint64, error) {
	if s == "" || s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a whole number above 0", s)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > max {
		return 0, fmt.Errorf("%q is above %d", s, max)
	}
	return n, nil
}
