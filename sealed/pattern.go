package sealed

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// checkPattern wants one of letters after each %.
func checkPattern(p, letters string) error {
	for i := 0; i < len(p); i++ {
		if p[i] != '%' {
			continue
		}
		i++
		if i == len(p) || !strings.ContainsRune(letters, rune(p[i])) {
			return fmt.Errorf("%q: after %% comes one of %s", p, strings.Join(strings.Split(letters, ""), " "))
		}
	}
	return nil
}

// hasPattern reports whether a pattern has that letter after a %.
func hasPattern(p string, letter byte) bool {
	for i := 0; i+1 < len(p); i++ {
		if p[i] != '%' {
			continue
		}
		i++
		if p[i] == letter {
			return true
		}
	}
	return false
}

// CutLabel cuts a name to what a volume's label can hold.
func CutLabel(name string) string {
	for len(name) > MaxLabel {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}
