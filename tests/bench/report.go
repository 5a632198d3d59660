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

func (h handOff) print() {
	fmt.Printf("\nHand-off to the job's first instruction: a volume to read, one to make; medians of %d, by turns\n", handOffRuns)
	row := func(name string, values []float64) {
		fmt.Printf("  %-48s %6.2f s  (%s)\n", name, median(values), spread(values))
	}
	first := column(h.cloister, func(s session) float64 { return s.first })
	released := column(h.cloister, func(s session) float64 { return s.released })
	fmt.Println("Cloister, since noded read the request")
	row("admitted (signature, age, policy)", column(h.cloister, func(s session) float64 { return s.admitted }))
	row("started (locked, keys, volumes, view)", column(h.cloister, func(s session) float64 { return s.started }))
	row("the script's first instruction", first)
	row("released, since the job's end", released)
	handFirst := column(h.hand, func(b byHand) float64 { return b.first })
	handReleased := column(h.hand, func(b byHand) float64 { return b.released })
	fmt.Println("By command lines (by-hand.sh), since its first line")
	for i := range h.hand[0].steps {
		row(h.hand[0].steps[i].name, column(h.hand, func(b byHand) float64 { return b.steps[i].took }))
	}
	row("the script's first instruction", handFirst)
	row("released", handReleased)
	fmt.Printf("by hand / Cloister: %.1f × to the first instruction (budget in the guest ≥ 10 ×), %.1f × to release\n",
		median(handFirst)/median(first), median(handReleased)/median(released))
	fmt.Println("By hand leaves out, for want of a tool or in its own favour: age (openssl cms instead), policy, replay check,")
	fmt.Println("ending foreign processes, the results' LUKS header, opening files as the user, most of the job view.")
}
