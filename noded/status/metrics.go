package status

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// metrics is the status in Prometheus's text exposition format 0.0.4.
func (s *Status) metrics() []byte {
	var b strings.Builder
	family := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	gauge := func(name, help string, v float64) {
		family(name, "gauge", help)
		fmt.Fprintf(&b, "%s %s\n", name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	family("cloister_info", "gauge", "What this node is.")
	fmt.Fprintf(&b, "cloister_info{class=%s,version=%s} 1\n", label(s.Class), label(s.Version))
	gauge("cloister_start_time_seconds", "When noded started, since 1970.", float64(s.Since.UnixMilli())/1000)
	gauge("cloister_in_service", "1 if sealed jobs are taken.", one(s.State == InService))
	gauge("cloister_fenced", "1 if the node was given up.", one(s.State == Fenced))
	gauge("cloister_faults", "What is wrong with the node.", float64(len(s.Faults)))
	gauge("cloister_locked", "1 if the packet filter is in force and watched.", one(s.Locked))
	gauge("cloister_session", "1 if a secure job has the node.", one(s.Session != nil))
	gauge("cloister_records_kept", "1 if records can be written.", one(s.Records == ""))
	gauge("go_goroutines", "Goroutines that noded has.", float64(s.Goroutines))
	family("cloister_incidents_total", "counter", "Incidents by kind, as far back as the records go.")
	for _, i := range s.Incidents {
		fmt.Fprintf(&b, "cloister_incidents_total{kind=%s} %d\n", label(i.Kind), i.All)
	}
	family("cloister_events_total", "counter", "Records by event, since noded started.")
	for _, e := range slices.Sorted(maps.Keys(s.Events)) {
		fmt.Fprintf(&b, "cloister_events_total{event=%s} %d\n", label(e), s.Events[e])
	}
	return []byte(b.String())
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// label quotes a value as the format wants it.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
