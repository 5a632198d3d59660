package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

// pairs draws n pairs whose true ratio is the given one: noise of 20 % that
// both share, 5 % of each one's own, and in one of twenty a long delay.
func pairs(draw *rand.Rand, n int, ratio float64) (a, b []float64) {
	one := func(shared, scale float64) float64 {
		t := shared * scale * math.Exp(0.05*draw.NormFloat64())
		if draw.IntN(20) == 0 {
			t += draw.ExpFloat64()
		}
		return t
	}
	for range n {
		shared := math.Exp(0.2 * draw.NormFloat64())
		a, b = append(a, one(shared, ratio)), append(b, one(shared, 1))
	}
	return a, b
}

var estimators = map[string]func(a, b []float64) estimate{"paired": paired, "ofMedians": ofMedians}

func TestAnUpperBoundLiesBelowTheTrueRatioInAboutOneOfTwentyRuns(t *testing.T) {
	for name, of := range estimators {
		draw := rand.New(rand.NewPCG(3, 4))
		const runs = 200
		below := 0
		for range runs {
			if a, b := pairs(draw, 100, 1.01); of(a, b).upper < 1.01 {
				below++
			}
		}
		// Of 200 runs 10 are expected; 22 or more would come by chance once in 3000 times.
		if below >= 22 {
			t.Errorf("%s: the bound was too low in %d of %d runs", name, below, runs)
		}
	}
}

func TestTheEstimateIsNearTheTrueRatioAndTheBoundAboveIt(t *testing.T) {
	for name, of := range estimators {
		a, b := pairs(rand.New(rand.NewPCG(5, 6)), 1000, 1.05)
		e := of(a, b)
		if math.Abs(e.ratio-1.05) > 0.02 || e.upper <= e.ratio || e.upper > e.ratio+0.03 {
			t.Errorf("%s: %s for a true ratio of 1.05", name, e)
		}
	}
}

func TestPairsShowASmallDifferenceThatMediansHide(t *testing.T) {
	// 2 % under noise of 20 %: seen in the pairs' ratios, not in the medians.
	a, b := pairs(rand.New(rand.NewPCG(7, 8)), 500, 1/1.02)
	p, m := paired(a, b), ofMedians(a, b)
	if p.upper >= 1 {
		t.Errorf("paired does not show that a is faster: %s", p)
	}
	if m.upper-m.ratio <= p.upper-p.ratio {
		t.Errorf("ofMedians (%s) is as sharp as paired (%s)", m, p)
	}
}
