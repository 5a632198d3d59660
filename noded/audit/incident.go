package audit

import "maps"

// An Incident is a kind of what should not happen on a node: each is recorded
// and counted, whether it was put right or not.
type Incident string

// The kinds of incident.
const (
	TokenUsed      Incident = "token-used"
	Replayed       Incident = "replayed"
	Tampered       Incident = "tampered"
	StepRefused    Incident = "step-refused"
	RulesChanged   Incident = "rules-changed"
	DoorOpened     Incident = "door-opened"
	Stranger       Incident = "stranger"
	MemoryExposed  Incident = "memory-exposed"
	WatchLost      Incident = "watch-lost"
	KeysKept       Incident = "keys-kept"
	VolumeAdrift   Incident = "volume-adrift"
	RecordsDamaged Incident = "records-damaged"
)

// Incidents are all kinds, in the order in which they are listed.
var Incidents = []Incident{TokenUsed, Replayed, Tampered, StepRefused, RulesChanged, DoorOpened, Stranger, MemoryExposed, WatchLost, KeysKept, VolumeAdrift, RecordsDamaged}

// String says what happened.
func (i Incident) String() string {
	switch i {
	case TokenUsed:
		return "token gone before this node used it"
	case Replayed:
		return "sealed job submitted again"
	case Tampered:
		return "a volume or image is not what was sealed"
	case StepRefused:
		return "a step was started into a secure job, or before its script"
	case RulesChanged:
		return "the packet filter was changed and is put back"
	case DoorOpened:
		return "a door was opened"
	case Stranger:
		return "a process came up that does not belong to the job"
	case MemoryExposed:
		return "memory could reach a disk: swap or core dumps were switched on"
	case WatchLost:
		return "the node can no longer be watched"
	case KeysKept:
		return "a job's user keeps a keyring of hers from being emptied: a reboot frees it"
	case VolumeAdrift:
		return "a volume that no process had open could only be closed by force"
	case RecordsDamaged:
		return "the records were altered, or lost more than a crash takes"
	}
	return string(i)
}

// A Counter counts incidents of a kind: since the node booted, and as far back
// as the records go.
type Counter struct {
	Boot uint64 `json:"boot"`
	All  uint64 `json:"all"`
}

// Counters are by kind; a kind that never happened is missing.
type Counters map[Incident]Counter

func (c Counters) add(i Incident, n uint64) {
	k := c[i]
	c[i] = Counter{k.Boot + n, k.All + n}
}

// newBoot is what is left of the counts after a reboot.
func (c Counters) newBoot() Counters {
	n := maps.Clone(c)
	for i, k := range n {
		n[i] = Counter{All: k.All}
	}
	return n
}
