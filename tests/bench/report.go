package main

import "fmt"

// column takes one value of each element.
func column[T any](of []T, value func(T) float64) []float64 {
	var out []float64
	for _, v := range of {
		out = append(out, value(v))
	}
	return out
}

// What noded's parts are, by the names that it gives them in its log.
var (
	partsToStart = map[string]string{
		"check":   "check: the node is what it must be",
		"verify":  "verify: signature, age, policy",
		"files":   "files: the volumes, as the user",
		"image":   "image: none here; journal",
		"survey":  "survey: what the doors are",
		"network": "network: packet filter, connections",
		"doors":   "doors: sshd stopped, logins ended",
		"foreign": "foreign: other people's processes",
		"lock":    "lock: listeners, watches, journal",
		"keys":    "keys: the KMS; results file made",
		"unlock":  "unlock: loops, mappings, file system, mounts",
		"view":    "view: the job's namespaces",
		"run":     "run: journal",
		"keep":    "keep: descriptors into systemd's store",
	}
	partsOfRelease = map[string]string{
		"run":    "run: processes, steps, keyrings",
		"view":   "view: namespaces",
		"flush":  "flush: the volumes' own data stored",
		"unlock": "unlock: mappings closed",
		"lock":   "lock: network open, sshd started",
	}
)

func explained(by map[string]string, part string) string {
	if text := by[part]; text != "" {
		return text
	}
	return part
}

func (h handOff) print() {
	fmt.Printf("\nHand-off to the job's first instruction: a volume to read, one to make; medians of %d, by turns\n", handOffRuns)
	row := func(name string, values []float64) {
		fmt.Printf("  %-48s %6.2f s  (%s)\n", name, median(values), spread(values))
	}
	first := column(h.cloister, func(s session) float64 { return s.first })
	released := column(h.cloister, func(s session) float64 { return s.released })
	fmt.Println("Cloister, since noded read the request")
	for _, p := range h.cloister[0].parts {
		row(explained(partsToStart, p.name), column(h.cloister, func(s session) float64 { return s.parts.took(p.name) }))
	}
	row("slurmstepd, the task, the shell", column(h.cloister, func(s session) float64 { return s.first - s.started }))
	row("the script's first instruction", first)
	fmt.Println("and since the job's end")
	for _, p := range h.cloister[0].releaseParts {
		row(explained(partsOfRelease, p.name), column(h.cloister, func(s session) float64 { return s.releaseParts.took(p.name) }))
	}
	row("released", released)
	row("released, without storing the volumes' data", column(h.cloister, func(s session) float64 { return s.released - s.releaseParts.took("flush") }))
	handFirst := column(h.hand, func(b byHand) float64 { return b.first })
	handReleased := column(h.hand, func(b byHand) float64 { return b.released })
	fmt.Println("By command lines (by-hand.sh), since its first line")
	for i := range h.hand[0].steps {
		row(h.hand[0].steps[i].name, column(h.hand, func(b byHand) float64 { return b.steps[i].took }))
	}
	row("the script's first instruction", handFirst)
	row("released", handReleased)
	fmt.Printf("by hand / Cloister: %.1f × to the first instruction (budget in the guest ≥ 10 ×), %.1f × to release (budget ≤ 1 s without storing data)\n",
		median(handFirst)/median(first), median(handReleased)/median(released))
	fmt.Println("By hand leaves out: policy, replay check, journal, records, opening files as the user, most of the job view.")
}
