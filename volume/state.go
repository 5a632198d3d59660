package volume

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"cloister/volume/integrity"
)

// StateSize is how much of an authenticated volume's payload, at its end, is no
// file system but holds its State: one sector.
const StateSize = integrity.SectorSize

// A State is how far an authenticated volume has come. Nodes write it where no
// job can, under the volume's own authentication.
//
// The counter goes up by one when a node opens the volume and by one when it has
// closed it: it is odd in between, and stays odd if the node never came to close
// it. So a copy with a lower counter is older.
type State struct {
	Counter uint64 `json:"counter"`
	Job     string `json:"job"` // that opened it last: 32 lower-case hexadecimal digits
}

var stateMagic = [16]byte{'c', 'l', 'o', 'i', 's', 't', 'e', 'r', '-', 's', 't', 'a', 't', 'e', '-', '1'}

// maxCounter is far above any real one; opening adds at most 2.
const maxCounter = 1 << 62

// Validate refuses what no node writes.
func (s State) Validate() error {
	if s.Counter == 0 || s.Counter > maxCounter {
		return fmt.Errorf("a volume's counter of %d is out of bounds", s.Counter)
	}
	if b, err := hex.DecodeString(s.Job); err != nil || len(b) != 16 || hex.EncodeToString(b) != s.Job {
		return errors.New("a volume's state does not name a job by 32 lower-case hexadecimal digits")
	}
	return nil
}

// Encode returns the last StateSize bytes of the payload: a magic string, the
// counter, little-endian, the job's 16 bytes, and zeros.
func (s State) Encode() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	job, _ := hex.DecodeString(s.Job)
	b := make([]byte, StateSize)
	copy(b, stateMagic[:])
	binary.LittleEndian.PutUint64(b[16:], s.Counter)
	copy(b[24:], job)
	return b, nil
}

// ParseState reads what Encode wrote, and nothing else.
func ParseState(b []byte) (State, error) {
	if len(b) != StateSize || !bytes.Equal(b[:16], stateMagic[:]) {
		return State{}, errors.New("the volume's last sector holds no state")
	}
	s := State{Counter: binary.LittleEndian.Uint64(b[16:]), Job: hex.EncodeToString(b[24:40])}
	again, err := s.Encode()
	if err != nil {
		return State{}, err
	}
	if !bytes.Equal(again, b) {
		return State{}, errors.New("the volume's last sector holds more than its state")
	}
	return s, nil
}

// Opened is the state after s once a node has opened the volume for job.
func (s State) Opened(job string) State { return State{s.Counter + 1 + s.Counter%2, job} }

// Closed is the state after s once the node has closed the volume.
func (s State) Closed() State { return State{s.Counter + s.Counter%2, s.Job} }

// Unclosed tells that a node opened the volume and has not closed it.
func (s State) Unclosed() bool { return s.Counter%2 == 1 }

var (
	// ErrOlder says that a volume is not in the newest state that its owner knows.
	ErrOlder = errors.New("an older state of the volume was put back")
	// ErrUnclosed says that the last job's node has not closed the volume.
	ErrUnclosed = errors.New("the node has not closed the volume")
)

// After checks that s is known, the newest state that was seen, or a later one.
// The zero State is before all others.
func (s State) After(known State) error {
	switch {
	case s.Counter < known.Counter:
		return fmt.Errorf("%w: its counter is %d, and %d was seen before (after job %s)", ErrOlder, s.Counter, known.Counter, known.Job)
	case s.Counter == known.Counter && s.Job != known.Job:
		return fmt.Errorf("%w: its counter is %d as seen before, but after job %s and not %s", ErrOlder, s.Counter, s.Job, known.Job)
	}
	return nil
}

// FileSystemSize is how much of the payload the file system has, in bytes.
func (p Pinned) FileSystemSize() int64 {
	if p.Integrity != nil {
		return p.PayloadSize - StateSize
	}
	return p.PayloadSize
}
