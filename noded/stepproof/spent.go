package stepproof

import "slices"

// Spent are the step numbers that were used in a session, as runs of numbers
// from the first to the last of each. Slurm counts steps up, so there is
// mostly one run. The zero value is empty; it has a JSON form for the journal.
type Spent [][2]uint32

// Add notes a step and reports whether it is new.
func (s *Spent) Add(step uint32) bool {
	list := *s
	i, _ := slices.BinarySearchFunc(list, step, func(r [2]uint32, n uint32) int {
		switch {
		case r[1] < n:
			return -1
		case r[0] > n:
			return 1
		}
		return 0
	})
	if i < len(list) && list[i][0] <= step && step <= list[i][1] {
		return false
	}
	after := i < len(list) && list[i][0]-1 == step
	before := i > 0 && list[i-1][1]+1 == step
	switch {
	case after && before:
		list[i-1][1] = list[i][1]
		list = slices.Delete(list, i, i+1)
	case after:
		list[i][0] = step
	case before:
		list[i-1][1] = step
	default:
		list = slices.Insert(list, i, [2]uint32{step, step})
	}
	*s = list
	return true
}
