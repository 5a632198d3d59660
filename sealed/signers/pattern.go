package signers

import (
	"fmt"
	"strings"
)

// maxPattern is the longest pattern in bytes: one that is longer matches
// nothing in OpenSSH (match.c, match_pattern_list).
const maxPattern = 1022

// A patternList is OpenSSH's comma-separated list of patterns (ssh_config(5),
// PATTERNS), kept as it was written.
type patternList string

func parsePatterns(s string) (patternList, error) {
	for p := range strings.SplitSeq(s, ",") {
		if len(p) > maxPattern {
			return "", fmt.Errorf("a pattern of %d bytes, at most %d are served", len(p), maxPattern)
		}
	}
	return patternList(s), nil
}

// matches says whether one pattern of the list matches and none that is
// negated with '!' does.
func (l patternList) matches(s string) bool {
	positive := false
	for p := range strings.SplitSeq(string(l), ",") {
		p, negated := strings.CutPrefix(p, "!")
		if !match(p, s) {
			continue
		}
		if negated {
			return false
		}
		positive = true
	}
	return positive
}

// match compares byte by byte: '*' stands for any number of bytes, '?' for one.
// Its time is bounded by the product of the lengths.
func match(pattern, s string) bool {
	p, i := 0, 0
	star, from := -1, 0 // the last '*', and where what follows it was tried
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
