package audit

import "time"

// Of like refusals, incidents and joined steps of a user, burst may come at once
// and one each refill after that: more than a person reads, less than a disk
// minds. The rest is summed up.
const burst = 40

var refill = time.Second

// A bucket limits entries that are alike.
type bucket struct {
	left  float64
	since time.Time
	// held is the last entry that got no record of its own, waiting one.
	held  *Entry
	timer *time.Timer
}

// maxBuckets bounds the memory for what others choose.
const maxBuckets = 256

// limited reports whether the entry comes too fast and was only counted. One
// that does not takes along the count of those before it.
func (l *Log) limited(e *Entry) bool {
	if e.Event != Refused && e.Event != Trouble && e.Event != Joined {
		return false
	}
	key := string(e.Event) + " " + string(e.Incident) + " " + e.User
	b := l.limits[key]
	if b == nil {
		if len(l.limits) >= maxBuckets {
			l.sumUp()
			clear(l.limits)
		}
		b = &bucket{left: burst, since: time.Now()}
		l.limits[key] = b
	}
	now := time.Now()
	b.left = min(burst, b.left+float64(now.Sub(b.since))/float64(refill))
	b.since = now
	if b.held == nil && b.left >= 1 {
		b.left--
		return false
	}
	if b.held != nil {
		e.More += b.held.More + 1
	}
	held := *e
	b.held = &held
	if b.timer == nil {
		b.timer = time.AfterFunc(refill, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.give(b)
		})
	}
	return true
}

// give writes the record that sums up what a bucket holds.
func (l *Log) give(b *bucket) {
	if b.held == nil {
		return
	}
	e := *b.held
	b.held, b.timer = nil, nil
	b.left, b.since = 0, time.Now()
	_, _ = l.append(e) // the journal has it; State tells of the failure
}

// sumUp writes what every bucket holds.
func (l *Log) sumUp() {
	for _, b := range l.limits {
		if b.timer != nil {
			b.timer.Stop()
		}
		l.give(b)
	}
}
