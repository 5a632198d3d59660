package noded

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/memfile"
	"cloister/noded/session"
	"cloister/noded/stepproof"
	"cloister/policy"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// A user may start steps of a job that is still being admitted, when nothing is
// known of it but its number.
func TestAStepOfAJobThatIsBeingAdmittedIsRefused(t *testing.T) {
	d, h, _ := recording(t, policy.OnDemand)
	l := newLive(7)
	d.take(l)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	c, err := handoff.Adopt(os.NewFile(uintptr(pair[0]), "step"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Request = handoff.Request{Job: 7, Step: 1, UID: 2001}
	d.ordinary(c, zap.NewNop())
	if r := h.last(t); r.Event != audit.Refused || r.Job != 7 || r.Session != "" {
		t.Errorf("recorded %+v", r)
	}
	if n := d.records.State().Incidents[audit.StepRefused].All; n != 1 {
		t.Errorf("%d incidents", n)
	}
}

// Slurm sends the number of tasks twice, and the proof is of one of them.
func TestAStepOfMoreTasksThanWereStartedIsRefused(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	l := newLive(7)
	l.record = &session.Record{UID: person, GID: person}
	var err error
	if l.stepKey, err = stepproof.NewKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	text := []byte("cloister-step=1\x00job=7\x00step=1\x00uid=65534\x00nnodes=1\x00ntasks=2\x00nonce=" + strings.Repeat("0", 32) + "\x00cwd=/data\x00arg=true\x00")
	claim, err := memfile.New("claim", text)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	proof := hmac.New(sha256.New, l.stepKey.Reveal())
	proof.Write(text)
	r := handoff.Request{Job: 7, Step: 1, UID: person, GID: person, Nodes: 1, Tasks: 2, Claim: claim, Proof: hex.EncodeToString(proof.Sum(nil))}
	if _, err := d.proven(&r, l); err != nil {
		t.Fatal(err)
	}
	r.Tasks = 3
	if _, err := d.proven(&r, l); err == nil || !strings.Contains(err.Error(), "a step of 2 tasks was started, and this one has 3") {
		t.Error(err)
	}
}

// The step's proof says nothing of groups, which are the controller's to set.
func TestAStepWithGroupsThatTheNodeDoesNotGiveIsRefused(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	l := newLive(7)
	l.record = &session.Record{UID: person, GID: person, Groups: []uint32{person, 7}}
	const disk = 6 // Debian's base-passwd
	for want, r := range map[string]handoff.Request{
		"the group 6 from Slurm": {Job: 7, Step: 1, UID: person, GID: person, Groups: []uint32{person, disk}},
		"the group 0 from Slurm": {Job: 7, Step: 1, UID: person, GID: 0, Groups: []uint32{person}},
		"does not prove":         {Job: 7, Step: 1, UID: person, GID: person, Groups: []uint32{person, 7}},
	} {
		if _, err := d.proven(&r, l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
