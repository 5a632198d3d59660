package unlock

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// advanceLook is how often it is looked whether a closing goes on.
	advanceLook = 250 * time.Millisecond
	// freedStep is how much memory must have become free to count, in bytes: more
	// than the node's daemons give and take.
	freedStep = 64 << 20
)

// An advance watches the closing of mappings: it goes on while they write, and
// after that while the memory is given back in which the kernel kept what was
// in them. How much there is of either depends on what the job did, so only a
// closing that stands still has failed.
type advance struct {
	names []string

	mu      sync.Mutex
	looked  time.Time
	since   time.Time
	written map[string]uint64 // by name, in 512-byte units, at most so far
	free    uint64            // bytes, at most so far
}

func newAdvance(names []string) *advance {
	now := time.Now()
	return &advance{names: names, since: now, looked: now, written: map[string]uint64{}}
}

// stands is for how long nothing went on.
func (a *advance) stands() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) < advanceLook {
		return time.Since(a.since)
	}
	a.looked = time.Now()
	if a.goesOn(written(a.names), free()) {
		a.since = time.Now()
	}
	return time.Since(a.since)
}

// goesOn: one that has written more counts, whatever became of the others: with a
// mapping that is gone goes all that it had written.
func (a *advance) goesOn(now map[string]uint64, memory uint64) bool {
	on := memory >= a.free+freedStep
	for n, sectors := range now {
		on = on || sectors > a.written[n]
		a.written[n] = max(a.written[n], sectors)
	}
	a.free = max(a.free, memory)
	return on
}

// written is what each mapping has written, as far as it is there still
// (Documentation/admin-guide/iostats.rst, field 7).
func written(names []string) map[string]uint64 {
	all := map[string]uint64{}
	paths, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		name := strings.TrimSpace(string(b))
		if !slices.Contains(names, name) {
			continue
		}
		stat, _ := os.ReadFile(strings.TrimSuffix(path, "dm/name") + "stat")
		if f := strings.Fields(string(stat)); len(f) > 6 {
			all[name], _ = strconv.ParseUint(f[6], 10, 64)
		}
	}
	return all
}

// free is MemFree of proc_meminfo(5), in bytes.
func free() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 1 && f[0] == "MemFree:" {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
