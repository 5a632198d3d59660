package analysis

import (
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// checkCurves computes both Kaplan-Meier curves anew from the data and
// compares them with R's, to R's six decimals.
func checkCurves(t *testing.T, table, curves string) {
	t.Helper()
	f, err := os.Open(table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := func(row []string, name string) int {
		n, err := strconv.Atoi(row[slices.Index(rows[0], name)])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var want []string
	for sex, label := range []string{1: "male", 2: "female"} {
		deaths, share := map[int]int{}, 1.0
		var days []int
		for _, r := range rows[1:] {
			if column(r, "sex") == sex && column(r, "status") == 2 {
				deaths[column(r, "time")]++
				days = append(days, column(r, "time"))
			}
		}
		slices.Sort(days)
		for _, day := range slices.Compact(days) {
			atRisk := 0
			for _, r := range rows[1:] {
				if column(r, "sex") == sex && column(r, "time") >= day {
					atRisk++
				}
			}
			share *= 1 - float64(deaths[day])/float64(atRisk)
			want = append(want, fmt.Sprintf("%s,%d,%d,%d,%.6f,", label, day, atRisk, deaths[day], share))
		}
	}
	got := strings.Split(strings.TrimSpace(curves), "\n")[1:]
	if len(got) != len(want) {
		t.Fatalf("survival.csv has %d points, want %d", len(got), len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("point %d: got %s, want %s", i, got[i], want[i])
		}
	}
}
