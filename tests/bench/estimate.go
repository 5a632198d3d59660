package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// An estimate is a ratio of two things that were measured in pairs, and the
// value below which it lies with 95 % confidence (one-sided).
type estimate struct{ ratio, upper float64 }

func (e estimate) String() string { return fmt.Sprintf("%.4f (≤ %.4f)", e.ratio, e.upper) }

// z95 is the standard normal distribution's 95 % quantile.
const z95 = 1.6448536

// paired is the Hodges-Lehmann estimate of a[i]/b[i]: the median of the means
// of all two pairs' log ratios, bounded by the Wilcoxon signed-rank
// distribution (its normal approximation; meant for 50 pairs and more). What
// slows both of a pair cancels out, one outlier moves it by little, and it
// supposes no distribution, only that a pair's noise is symmetric, which the
// random order within the pair brings about.
func paired(a, b []float64) estimate {
	n := len(a)
	logs := make([]float64, n)
	for i := range a {
		logs[i] = math.Log(a[i] / b[i])
	}
	walsh := make([]float64, 0, n*(n+1)/2)
	for i := range logs {
		for j := i; j < n; j++ {
			walsh = append(walsh, (logs[i]+logs[j])/2)
		}
	}
	slices.Sort(walsh)
	f := float64(n)
	rank := f*(f+1)/4 + z95*math.Sqrt(f*(f+1)*(2*f+1)/24)
	at := min(int(math.Ceil(rank)), len(walsh)-1)
	return estimate{math.Exp(middle(walsh)), math.Exp(walsh[at])}
}

// bootstraps is how often pairs are drawn anew; more changes the 95th
// percentile in the fourth digit only.
const bootstraps = 4000

// ofMedians is the ratio of the medians, bounded by a bootstrap that draws
// pairs, so that what both of a pair share stays shared. The draws are the
// same at every call.
func ofMedians(a, b []float64) estimate {
	draw := rand.New(rand.NewPCG(1, 2))
	n := len(a)
	x, y, ratios := make([]float64, n), make([]float64, n), make([]float64, bootstraps)
	for i := range ratios {
		for j := range n {
			k := draw.IntN(n)
			x[j], y[j] = a[k], b[k]
		}
		slices.Sort(x)
		slices.Sort(y)
		ratios[i] = middle(x) / middle(y)
	}
	slices.Sort(ratios)
	return estimate{middle(slices.Sorted(slices.Values(a))) / middle(slices.Sorted(slices.Values(b))), ratios[bootstraps*95/100]}
}

// middle is the median of sorted values.
func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
