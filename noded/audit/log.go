package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The sizes of the files. A session is some 15 records of half a kilobyte, so
// that they hold about 15,000 sessions. Opening reads the last one only.
const (
	maxFile  = 1 << 20 // bytes; a file may end with one record more
	maxFiles = 128
)

// Config is what a Log is made from.
type Config struct {
	// Dir is made if need be, for root alone. It must lie on a disk.
	Dir string
	// Boot is the kernel's boot id. Node and Version are noted in each file.
	Boot, Node, Version string
	// Journal hears of each record too, also of one that could not be written
	// to the file: then its Head is zero. Needed.
	Journal func(Record, Head)

	maxFile, maxFiles int // for tests
}

// A Log appends records. Each is written at once and flushed to the disk right
// after, so that a power cut takes the records of the last moment at most. Its
// methods may be called from several goroutines. The nil Log keeps nothing and
// says so.
type Log struct {
	Config

	mu     sync.Mutex
	file   *os.File
	size   int64
	head   Head
	counts Counters
	events map[Event]uint64
	// start is what Open could not do; file is nil until then.
	start func() error
	// failed is why nothing can be written at present, since when.
	failed error
	since  time.Time
	limits map[string]*bucket

	flush   chan struct{}
	flushed *sync.Cond // with mu
	durable uint64
	pending []Head // what is written and not durable
	lost    []Head // what was pending when something failed
	closing chan struct{}
	done    chan struct{}
}

var (
	errNone   = errors.New("no records are kept")
	errClosed = errors.New("the records are closed")
	errLost   = errors.New("the record could not be flushed to the disk")
)

// Open goes on with the records in the directory. What a crash left of the
// last one is marked as that; what more is wrong with them is an incident, and
// a new file is begun. If the disk does not let it, the Log has failed at first:
// a noded that did not start would leave its predecessor's session as it is.
func Open(c Config) *Log {
	if c.maxFile == 0 {
		c.maxFile, c.maxFiles = maxFile, maxFiles
	}
	l := &Log{Config: c, counts: Counters{}, events: map[Event]uint64{}, limits: map[string]*bucket{},
		flush: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}), head: Head{Hash: none}}
	l.flushed = sync.NewCond(&l.mu)
	start, err := l.resume()
	if err == nil {
		err = l.attempt(start)
	} else {
		start = l.resumeAnew
	}
	if err != nil {
		l.start = start
		l.fail(err)
	}
	go l.flusher()
	return l
}

// resumeAnew is for attempt, where resume could not read what is there.
func (l *Log) resumeAnew() error {
	start, err := l.resume()
	if err != nil {
		return err
	}
	return start()
}

// resume finds the end of the chain. What it returns repairs what a crash left
// there, and is for attempt.
func (l *Log) resume() (start func() error, err error) {
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the records: %w", err)
	}
	names, err := files(l.Dir)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return func() error { return l.begin(1) }, nil
	}
	last := names[len(names)-1]
	b, err := readFile(last)
	if err != nil {
		return nil, err
	}
	p := scan(last, b)
	damage := l.follow(p)
	if l.head.Seq == 0 { // a crash came between the file and its first record
		if len(names) > 1 {
			before, err := readFile(names[len(names)-2])
			if err != nil {
				return nil, err
			}
			l.follow(scan(names[len(names)-2], before)) // what is wrong there is not new
		}
		if damage == "" && l.head.Seq+1 != firstOf(last) {
			damage = filepath.Base(last) + " does not follow on the file before it"
		}
	}
	if damage != "" {
		l.head.Seq = max(l.head.Seq, firstOf(last)) // its name is taken
		return func() error { return l.beginAnew(damage) }, nil
	}
	return func() error {
		f, err := os.OpenFile(last, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return fmt.Errorf("opening the records: %w", err)
		}
		l.file, l.size = f, int64(len(b))
		if err = l.mend(p); err != nil { // half of it would look like an alteration the next time
			err = errors.Join(err, f.Truncate(int64(len(b))), f.Close())
		}
		return err
	}, nil
}

// follow takes the state at the end of a file, and says what is wrong with it.
func (l *Log) follow(p part) (damage string) {
	for i, k := range p.links {
		if k.broken != nil {
			damage = fmt.Sprintf("line %d of %s: %v", k.line, filepath.Base(k.file), k.broken)
			continue
		}
		if i > 0 && damage == "" && (k.Seq != l.head.Seq+1 || k.Prev != l.head.Hash) {
			damage = fmt.Sprintf("line %d of %s: record %d does not follow on the one before it", k.line, filepath.Base(k.file), k.Seq)
		}
		l.head = Head{k.Seq, k.hash}
		l.count(k.Record)
	}
	return damage
}

func (l *Log) count(r *Record) {
	if r.Begin != nil {
		l.counts = maps.Clone(r.Begin.Incidents)
		if l.counts == nil {
			l.counts = Counters{}
		}
		if r.Boot != l.Boot {
			l.counts = l.counts.newBoot()
		}
	}
	if r.Incident == "" {
		return
	}
	n := 1 + r.More
	l.counts.add(r.Incident, n)
	if r.Boot != l.Boot {
		l.counts[r.Incident] = Counter{Boot: l.counts[r.Incident].Boot - n, All: l.counts[r.Incident].All}
	}
}

// mend marks what a crash left at the end of the file, and begins it if it has
// no record yet.
func (l *Log) mend(p part) error {
	tail := p.tail
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		tail = append(tail[:len(tail):len(tail)], '\n')
		if err := l.write([]byte{'\n'}); err != nil {
			return err
		}
		if r, hash, err := parse(p.tail); err == nil && r.Seq == l.head.Seq+1 && r.Prev == l.head.Hash {
			// Nothing but the line feed was lost.
			p.links = append(p.links, link{Record: r, hash: hash})
			l.head = Head{r.Seq, hash}
			l.count(r)
			tail = nil
		}
	}
	if len(tail) > 0 {
		if _, err := l.add(Entry{Event: Torn, Tear: bytesOf(tail)}); err != nil {
			return err
		}
	}
	if len(p.links) == 0 {
		return l.addBegin()
	}
	return nil
}

// begin starts the file whose first record has that number.
func (l *Log) begin(first uint64) error {
	if l.file != nil { // so that a crash cannot leave half a record before a whole file
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("ending a file of records: %w", err)
		}
	}
	name := filepath.Join(l.Dir, fileName(first))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("beginning a file of records: %w", err)
	}
	if err := syncDir(l.Dir); err != nil {
		return fmt.Errorf("beginning a file of records: %w", errors.Join(err, f.Close(), os.Remove(name)))
	}
	old, size := l.file, l.size
	l.file, l.size = f, 0
	if err := l.addBegin(); err != nil { // the old file stays the last one
		err = errors.Join(err, l.discard())
		l.file, l.size = old, size
		return err
	}
	if old != nil {
		if err := old.Close(); err != nil {
			return fmt.Errorf("ending a file of records: %w", err)
		}
	}
	return nil
}

// discard removes a file that was just begun. Nothing was promised of it.
func (l *Log) discard() error { return errors.Join(l.file.Close(), os.Remove(l.file.Name())) }

// beginAnew starts the next file with the incident that befell the one before,
// if one did.
func (l *Log) beginAnew(damage string) error {
	err := l.begin(l.head.Seq + 1)
	if err != nil {
		return err
	}
	if damage != "" {
		_, err = l.add(Entry{Event: Trouble, Incident: RecordsDamaged, Detail: damage})
	}
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return errors.Join(err, l.discard())
	}
	return nil
}

func (l *Log) addBegin() error {
	_, err := l.add(Entry{Event: Begun, Begin: &Begin{Format, l.Node, l.Version, maps.Clone(l.counts)}})
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Add appends a record. An error means that it may not be in the file; it is in
// the journal all the same. Refusals, incidents and joined steps that come too
// fast are counted and summed up in a later record.
func (l *Log) Add(e Entry) (Head, error) {
	if l == nil {
		return Head{}, errNone
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events[e.Event]++
	if l.limited(&e) {
		return l.head, nil
	}
	return l.append(e)
}

// append is Add for whoever holds mu.
func (l *Log) append(e Entry) (Head, error) {
	if l.failed == nil && l.size >= int64(l.maxFile) {
		if err := l.rotate(); err != nil {
			l.fail(err)
		}
	}
	return l.add(e)
}

func (l *Log) add(e Entry) (Head, error) {
	e.tidy()
	r := Record{Seq: l.head.Seq + 1, Time: time.Now().UTC().Truncate(time.Microsecond), Boot: l.Boot, Prev: l.head.Hash, Entry: e}
	if r.Event != Begun { // it has the counts itself
		l.count(&r)
	}
	line, hash, err := r.encode()
	if err == nil {
		err = l.write(append(line, '\n'))
	}
	if err != nil {
		l.Journal(r, Head{})
		return Head{}, err
	}
	l.head = Head{r.Seq, hash}
	l.pending = append(l.pending, l.head)
	l.Journal(r, l.head)
	select {
	case l.flush <- struct{}{}:
	default: // it is on its way
	}
	return l.head, nil
}

// write appends whole lines or nothing.
func (l *Log) write(b []byte) error {
	if l.failed != nil {
		return l.failed
	}
	n, err := l.file.Write(b)
	if err == nil {
		l.size += int64(n)
		return nil
	}
	err = fmt.Errorf("writing a record: %w", err)
	if n > 0 {
		if cut := l.file.Truncate(l.size); cut != nil {
			l.fail(err)
		}
	}
	return err
}

// rotate begins the next file and removes the oldest ones that are too many,
// each after a record that says so is on the disk.
func (l *Log) rotate() error {
	if err := l.begin(l.head.Seq + 1); err != nil {
		return err
	}
	names, err := files(l.Dir)
	if err != nil {
		return err
	}
	for i := 0; len(names)-i > l.maxFiles; i++ {
		through, err := endOf(names[i])
		if err != nil {
			return err
		}
		if _, err := l.add(Entry{Event: Pruned, Prune: &through}); err != nil {
			return err
		}
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("removing old records: %w", err)
		}
		if err := os.Remove(names[i]); err != nil {
			return fmt.Errorf("removing old records: %w", err)
		}
	}
	return nil
}

// endOf is the last record of a file.
func endOf(file string) (Head, error) {
	b, err := readFile(file)
	if err != nil {
		return Head{}, err
	}
	links := scan(file, b).links
	for i := len(links) - 1; i >= 0; i-- {
		if links[i].broken == nil {
			return Head{links[i].Seq, links[i].hash}, nil
		}
	}
	return Head{0, none}, nil
}

// flusher brings what was written to the disk, at once, and once for all that
// came meanwhile.
func (l *Log) flusher() {
	defer close(l.done)
	for range l.flush {
		l.mu.Lock()
		f, upTo := l.file, l.head
		l.mu.Unlock()
		var err error
		if f != nil {
			err = f.Sync()
		}
		l.mu.Lock()
		if err != nil && f == l.file { // a file that was ended meanwhile was flushed then
			l.fail(fmt.Errorf("flushing the records: %w", err))
		} else if l.failed == nil {
			l.durable = upTo.Seq
			l.pending = l.pending[slices.Index(l.pending, upTo)+1:]
		}
		failed := l.failed != nil
		l.flushed.Broadcast()
		l.mu.Unlock()
		if failed {
			l.recovered()
		}
	}
}

// Wait returns once the record is on the disk, or with the reason why it is
// not.
func (l *Log) Wait(ctx context.Context, h Head) error {
	if l == nil {
		return errNone
	}
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.flushed.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case slices.Contains(l.lost, h):
			return errLost
		case h.Seq <= l.durable:
			return nil
		case l.failed != nil:
			return l.failed
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for a record to reach the disk: %w", context.Cause(ctx))
		}
		l.flushed.Wait()
	}
}

// A State is where a Log is.
type State struct {
	Head      Head
	Incidents Counters
	// Events counts them since the Log was opened.
	Events map[Event]uint64
	// Failed is why no more can be written at present, nil if it can, and
	// Since when. It is tried again.
	Failed error
	Since  time.Time
}

// State returns the present one.
func (l *Log) State() State {
	if l == nil {
		return State{Failed: errNone}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return State{l.head, maps.Clone(l.counts), maps.Clone(l.events), l.failed, l.since}
}

// Close writes what is summed up and flushes everything. It is safe to call
// twice.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if errors.Is(l.failed, errClosed) {
		l.mu.Unlock()
		return nil
	}
	l.sumUp()
	l.failed = errors.Join(l.failed, errClosed)
	l.mu.Unlock()
	close(l.closing)
	close(l.flush)
	<-l.done
	if l.file == nil {
		return nil
	}
	return errors.Join(l.file.Sync(), l.file.Close())
}
