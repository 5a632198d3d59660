package sealed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"cloister/mutant"
)

// A Notice is what a sealed job says in clear, signed, so that a mistake can be
// told at submission, where nobody can decrypt: until when it is good, which the
// key server sees too, and what the script's arguments are, which the submission
// will show to everybody. They are there as a digest: who has the file before that
// can try guesses, but not read them.
type Notice struct {
	Expires   time.Time
	arguments int
	digest    string // of the arguments, 64 lower-case hexadecimal digits
}

// Notice is what the manifest's sealed job says in clear.
func (m *Manifest) Notice() Notice {
	return Notice{m.Expires, len(m.Arguments), digestOf(m.Arguments)}
}

// digestOf is the SHA-256 of each argument followed by a NUL, which none holds.
func digestOf(arguments []string) string {
	h := sha256.New()
	for _, a := range arguments {
		h.Write(append([]byte(a), 0))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// line is a command of the shell's that does nothing.
func (n Notice) line() string {
	return fmt.Sprintf(": 'expires %s; arguments %d sha256:%s'", n.Expires.Format(time.RFC3339), n.arguments, n.digest)
}

var noticeForm = regexp.MustCompile(`^: 'expires ([0-9TZ:-]{20}); arguments ([0-9]{1,3}) sha256:([0-9a-f]{64})'$`)

// parseNotice reads a line without its end. That it is the one encoding is for
// the caller to see.
func parseNotice(line string) (n Notice, err error) {
	found := noticeForm.FindStringSubmatch(line)
	if found == nil {
		return n, fmt.Errorf("its notice of expiry and arguments is %q", line)
	}
	n.digest = found[3]
	if n.Expires, err = time.Parse(time.RFC3339, found[1]); err != nil {
		return n, fmt.Errorf("its expiry: %w", err)
	}
	n.arguments, err = strconv.Atoi(found[2])
	return n, err
}

// is compares as the file has it.
func (n Notice) is(other Notice) bool { return n.line() == other.line() }

// CheckTime refuses a job that expired by now: a *Refusal of kind ErrExpired, as
// Manifest.CheckTime's.
func (n Notice) CheckTime(now time.Time) error { return checkExpiry(n.Expires, now) }

// CheckArguments refuses other arguments of the script than were sealed: a
// *Refusal of kind ErrOtherArguments, as Manifest.CheckArguments'.
func (n Notice) CheckArguments(given []string) error {
	if len(given) != n.arguments || digestOf(given) != n.digest {
		return refuseArguments(len(given), n.arguments)
	}
	return nil
}

// CheckArguments refuses other arguments of the script than were sealed, without
// its own name: a *Refusal of kind ErrOtherArguments. They are not part of the
// script that sbatch reads: unsigned ones would steer a signed program (attack 10).
func (m *Manifest) CheckArguments(given []string) error {
	if !slices.Equal(given, m.Arguments) && !mutant.Removed(mutant.SealedArguments) {
		return refuseArguments(len(given), len(m.Arguments))
	}
	return nil
}

// refuseArguments does not repeat them, for the message ends up in a file that
// other users may read.
func refuseArguments(given, sealed int) error {
	return refuse(ErrOtherArguments, "submit it with the arguments it was sealed with, or seal it again with those",
		"the script was submitted with %d arguments that are not the %d it was sealed with", given, sealed)
}

func checkExpiry(expires, now time.Time) error {
	if !now.Before(expires) && !mutant.Removed(mutant.Expiry) {
		return refuse(ErrExpired, nextSealAgain+" (--expires sets for how long)", "this sealed job expired on %s", expires.Format(time.RFC1123))
	}
	return nil
}
