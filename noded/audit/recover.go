package audit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// After an error that leaves it open what is in the file, recovering is tried
// at once, then after recoverPause, which doubles up to recoverPauseMax.
var (
	recoverPause    = time.Second
	recoverPauseMax = time.Minute
)

// fail has nothing more written before the flusher has recovered.
func (l *Log) fail(err error) {
	if l.failed == nil {
		l.failed, l.since = err, time.Now()
	}
	// Others may get their numbers: who waits for one of these must not take
	// its successor for it.
	l.lost = append(l.lost, l.pending...)
	l.pending = nil
	select {
	case l.flush <- struct{}{}:
	default:
	}
}

// recovered tries until records can be written again or the Log is closed.
func (l *Log) recovered() {
	for pause := recoverPause; ; pause = min(2*pause, recoverPauseMax) {
		l.mu.Lock()
		done := l.failed == nil || errors.Is(l.failed, errClosed) || l.recover() == nil
		l.flushed.Broadcast()
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-l.closing:
			return
		case <-time.After(pause):
		}
	}
}

// recover reads back what the disk has of the last file and goes on in a new
// one. It is for whoever holds mu.
func (l *Log) recover() error {
	if l.start != nil {
		if err := l.attempt(l.start); err != nil {
			return err
		}
		l.start = nil
		return nil
	}
	last, head, failed := l.file, l.head, l.failed
	verified, whole, err := readBack(last)
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("%v; none of the records up to %d is lost", failed, head.Seq)
	switch {
	case !whole || verified != head:
		detail = fmt.Sprintf("%v; of the records up to %d those after %d are lost or damaged", failed, head.Seq, verified.Seq)
	case Full(failed):
		detail = "" // an ordinary user may fill a disk: no incident
	}
	if verified.Seq == 0 { // not even the file's first
		verified = Head{firstOf(last.Name()), none}
	}
	if err := l.attempt(func() error {
		l.head = verified
		return l.beginAnew(detail)
	}); err != nil {
		return err
	}
	l.durable, l.pending = l.head.Seq, nil
	return last.Close()
}

// attempt begins or mends a file by way of do, or leaves all as it was. The
// journal hears of the records once that is done.
func (l *Log) attempt(do func() error) error {
	file, size, head, counts, failed, tell := l.file, l.size, l.head, l.counts, l.failed, l.Journal
	var news []func()
	l.Journal = func(r Record, h Head) { news = append(news, func() { tell(r, h) }) }
	l.failed, l.file, l.counts = nil, nil, maps.Clone(counts)
	err := do()
	l.Journal = tell
	if err != nil {
		l.file, l.size, l.head, l.counts, l.failed, l.pending = file, size, head, counts, failed, nil
		return err
	}
	for _, n := range news {
		n()
	}
	return nil
}

// Full reports whether an error is of a disk that is full or a quota that is
// used up.
func Full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// readBack returns the last record that the disk has of a file, and whether
// nothing else follows. A failed fsync(2) is told once, and what it could not
// write stays in the page cache as if it were on the disk: so after one that
// does not fail the cache is dropped (posix_fadvise(2)).
func readBack(f *os.File) (end Head, whole bool, err error) {
	if err := f.Sync(); err != nil {
		return end, false, fmt.Errorf("flushing the records: %w", err)
	}
	if err := dropCache(f); err != nil {
		return end, false, fmt.Errorf("reading %s back: %w", filepath.Base(f.Name()), err)
	}
	b, err := readFile(f.Name())
	if err != nil {
		return end, false, err
	}
	p := scan(f.Name(), b)
	for i, k := range p.links {
		if k.broken != nil || i > 0 && (k.Seq != end.Seq+1 || k.Prev != end.Hash) {
			return end, false, nil
		}
		end = Head{k.Seq, k.hash}
	}
	return end, len(p.tail) == 0, nil
}
