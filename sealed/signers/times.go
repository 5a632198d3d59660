package signers

import (
	"fmt"
	"strings"
	"time"
)

// parseTime reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS: in UTC with a Z or
// UTC after it, in either case, else in the zone given.
func parseTime(s string, zone *time.Location) (time.Time, error) {
	digits, utc := cutFold(s, "Z")
	if !utc {
		digits, utc = cutFold(s, "UTC")
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(layout) != len(digits) || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		t, err := time.Parse(layout, digits)
		if err != nil {
			break
		}
		if !utc {
			t = standardTime(t, zone)
		}
		if t.Unix() <= 0 {
			break // no time at all, to ssh-keygen
		}
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC", s)
}

func cutFold(s, suffix string) (string, bool) {
	i := len(s) - len(suffix)
	if i <= 0 || !strings.EqualFold(s[i:], suffix) {
		return s, false
	}
	return s[:i], true
}

// standardTime reads the clock face of t, which is in UTC, in a zone's standard
// time, in summer too: OpenSSH calls mktime(3) with tm_isdst = 0 (misc.c,
// parse_absolute_time), so that its local times in summer lie an hour later
// than a wall clock's. The standard offset is that of the nearest time without
// daylight saving, found in steps of a week, as the C library does.
func standardTime(t time.Time, zone *time.Location) time.Time {
	const (
		week = 7 * 24 * time.Hour
		most = 20 * 52 // weeks each way; no zone had summer time for longer
	)
	for i := range most {
		for _, near := range []time.Time{t.Add(time.Duration(i) * week), t.Add(-time.Duration(i) * week)} {
			if local := near.In(zone); !local.IsDST() {
				_, offset := local.Zone()
				return t.Add(-time.Duration(offset) * time.Second).In(zone)
			}
		}
	}
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, zone)
}
