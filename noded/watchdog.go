package noded

import (
	"context"
	"maps"
	"runtime"
	"time"

	"cloister/noded/audit"
	"cloister/noded/status"

	"go.uber.org/zap"
)

// How long the loops may take to come round. The watches look at least each
// half minute, and a look may take as long again; launches are waited for in
// pieces of five seconds.
const (
	watchLimit  = 3 * time.Minute
	acceptLimit = time.Minute
)

// Watchdog tells systemd that noded is alive, a third of interval apart, for as
// long as all its loops come round and its state can be asked for: a lock that
// is never given back or a disk that does not answer stops it too. Then systemd
// ends noded and starts it anew; a job that runs goes on.
func (d *Daemon) Watchdog(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if late := d.pulse.Late(); len(late) > 0 {
			d.log.Error("noded is stuck", zap.Strings("late", late))
			continue
		}
		d.state() // takes the locks that everything takes
		d.systemd.Alive()
	}
}

// Status implements status.Source.
func (d *Daemon) Status() *status.Status {
	s := d.state()
	s.Faults = d.check()
	if s.State == status.InService && len(s.Faults) > 0 {
		s.State = status.Unfit
	}
	if s.Records != "" && s.State == status.InService {
		s.State = status.Unfit
		s.Faults = append(s.Faults, "records cannot be kept: "+s.Records)
	}
	return s
}

// state is the status without a look at the node itself.
func (d *Daemon) state() *status.Status {
	s := &status.Status{
		Format: status.Format, Node: d.node, Class: string(d.policy.Class), Cluster: d.policy.Cluster, Version: d.version,
		State: status.InService, Since: d.started, Goroutines: runtime.NumGoroutine(),
	}
	records := d.records.State()
	s.Head = records.Head.String()
	if records.Failed != nil {
		s.Records = records.Failed.Error()
	}
	for _, i := range audit.Incidents {
		if c, ok := records.Incidents[i]; ok {
			s.Incidents = append(s.Incidents, status.Incident{Kind: string(i), What: i.String(), Boot: c.Boot, All: c.All})
		}
	}
	s.Events = map[string]uint64{}
	for e, n := range maps.All(records.Events) {
		s.Events[string(e)] = n
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Locked = d.watches[watchFilter] != nil
	if d.fenced != nil {
		f := *d.fenced
		s.Fence, s.State = &f, status.Fenced
	}
	if l := d.busy; l != nil && l.slurmJob != 0 {
		s.Session = &status.Session{Job: l.slurmJob, Since: l.since, Phase: "admit"}
		if p := l.phase.Load(); p != nil {
			s.Session.Phase = *p
		}
		if r := l.record; r != nil {
			s.Session.Session, s.Session.User, s.Session.Since = r.ID, r.User, r.Started
		}
	}
	return s
}
