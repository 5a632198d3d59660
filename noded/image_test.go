package noded

import "testing"

func TestTheMemoryThatAnImageMayBeCopiedToIsReadOrNone(t *testing.T) {
	for text, want := range map[string]int64{
		"MemTotal:  4096 kB\nMemFree:   1 kB\nMemAvailable:    2048 kB\n": 2 << 20,
		"MemTotal:  4096 kB\n":               0,
		"":                                   0,
		"MemAvailable: -1 kB\n":              -1 << 10,
		"MemAvailable: 2048\n":               0,
		"MemAvailable: 99999999999999999 kB": 0,
	} {
		if got := available([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
