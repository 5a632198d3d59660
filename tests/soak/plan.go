package soak

import (
	"fmt"
	"math/rand/v2"
	"time"

	"cloister/tests/cluster"
)

// A Blow is what befalls a job, or its node, or the cluster.
type Blow string

// The blows. Those of the user's own doing must never cost a node its service.
const (
	Nothing       Blow = "nothing"
	ExitStatus    Blow = "exit status 3"
	Cancel        Blow = "scancel"
	CancelEarly   Blow = "scancel in admission"
	TimeLimit     Blow = "time limit"
	KillNoded     Blow = "kill -9 noded"
	KillEarly     Blow = "kill -9 noded in admission"
	RestartNoded  Blow = "noded upgraded"
	KillStepd     Blow = "kill -9 slurmstepd"
	KillSlurmd    Blow = "kill -9 slurmd"
	KillSlurmctld Blow = "kill -9 slurmctld"
	KillKMS       Blow = "kill -9 the KMS"
	HangFiles     Blow = "file server hangs"
	Reboot        Blow = "node reboots"
	PowerCut      Blow = "power cut"
)

// deck is how often each blow comes in a round of a lane; a round has all.
var deck = map[Blow]int{
	Nothing: 4, ExitStatus: 1, Cancel: 2, CancelEarly: 2, TimeLimit: 1,
	KillNoded: 2, KillEarly: 1, RestartNoded: 1, KillStepd: 1, KillSlurmd: 1,
	KillSlurmctld: 1, KillKMS: 1, HangFiles: 1, Reboot: 1, PowerCut: 1,
}

// order is deck's, for a shuffle that the seed alone decides.
var order = []Blow{
	Nothing, ExitStatus, Cancel, CancelEarly, TimeLimit, KillNoded, KillEarly, RestartNoded,
	KillStepd, KillSlurmd, KillSlurmctld, KillKMS, HangFiles, Reboot, PowerCut,
}

// usersOwn: anybody who may submit a job can bring it about.
func (b Blow) usersOwn() bool {
	switch b {
	case Nothing, ExitStatus, Cancel, CancelEarly, TimeLimit:
		return true
	}
	return false
}

// endsNoded: another noded serves afterwards, of which nothing is known yet.
func (b Blow) endsNoded() bool {
	switch b {
	case KillNoded, KillEarly, RestartNoded, Reboot, PowerCut:
		return true
	}
	return false
}

// early: it comes while the job is admitted.
func (b Blow) early() bool { return b == CancelEarly || b == KillEarly }

// ends are the states that a job may end in after the blow, if nothing befell
// the cluster meanwhile. What comes early may come too late.
func (b Blow) ends() []string {
	switch b {
	case Nothing, KillNoded, RestartNoded, KillSlurmd, KillSlurmctld, KillKMS, HangFiles:
		return []string{"COMPLETED"}
	case ExitStatus:
		return []string{"FAILED"}
	case Cancel, CancelEarly:
		return []string{"CANCELLED", "COMPLETED"}
	case KillEarly:
		return []string{"COMPLETED", "FAILED", "CANCELLED"}
	case TimeLimit:
		return []string{"TIMEOUT"}
	case KillStepd:
		return []string{"CANCELLED", "FAILED"}
	}
	return []string{"NODE_FAIL", "FAILED", "CANCELLED"} // the node went
}

// A Plan is one job and what befalls it.
type Plan struct {
	Number  int
	Blow    Blow
	Records int           // that the job writes, a second apart
	After   int           // records before the blow
	Delay   time.Duration // of an early one, after the session began

	Inputs, Image, Secret, Step, Stubborn bool
	// Ordinary: one of Slurm's usual jobs goes before it.
	Ordinary bool
	// Kept: the results go to the lane's volume, which all of its jobs open by
	// turns, and not to one that is made.
	Kept bool
}

func (p Plan) String() string {
	s := fmt.Sprintf("job %d, %d records", p.Number, p.Records)
	for _, x := range []struct {
		is   bool
		name string
	}{{p.Inputs, "inputs"}, {p.Image, "image"}, {p.Secret, "secret file"}, {p.Step, "srun"}, {p.Stubborn, "stubborn"}, {p.Kept, "kept volume"}, {p.Ordinary, "an ordinary one before"}} {
		if x.is {
			s += ", " + x.name
		}
	}
	return s + "; " + string(p.Blow)
}

// Plans deals plans for one lane. The seed and the node alone decide them.
type Plans struct {
	chance *rand.Rand
	round  []Blow
	dealt  int
	calm   bool
}

// NewPlans begins a lane's plans. Calm ones let each noded live.
func NewPlans(seed uint64, node string, calm bool) *Plans {
	lane := map[string]uint64{cluster.S1: 1, cluster.S2: 2}[node]
	return &Plans{chance: rand.New(rand.NewPCG(seed, lane)), calm: calm}
}

// Next deals one.
func (p *Plans) Next() Plan {
	if len(p.round) == 0 {
		for _, b := range order {
			if p.calm && b.endsNoded() {
				continue
			}
			for range deck[b] {
				p.round = append(p.round, b)
			}
		}
		p.chance.Shuffle(len(p.round), func(i, j int) { p.round[i], p.round[j] = p.round[j], p.round[i] })
	}
	b := p.round[0]
	p.round = p.round[1:]
	p.dealt++
	one := func(in int) bool { return p.chance.IntN(in) == 0 }
	after := 1 + p.chance.IntN(5)
	return Plan{
		Number: p.dealt, Blow: b, After: after, Records: after + records(b, p.chance),
		Delay:  time.Duration(p.chance.IntN(3000)) * time.Millisecond,
		Inputs: one(2), Image: one(6), Secret: one(4), Step: one(4), Stubborn: one(2), Kept: one(2), Ordinary: one(4),
	}
}

// records is how many are still to be written at the blow: enough that it does
// not come after the job's end.
func records(b Blow, chance *rand.Rand) int {
	switch b {
	case Nothing, ExitStatus:
		return chance.IntN(4)
	case TimeLimit, Reboot, PowerCut, Cancel, KillStepd:
		return 600
	}
	return 20
}
