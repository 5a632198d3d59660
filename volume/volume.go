// Package volume makes, reads and describes Cloister's volumes: LUKS2 files
// with an ext4 file system inside, without root, kernel modules or cgo.
//
// Create turns a directory into a volume and returns what opening it takes:
// the Pinned parameters, which are no secret and go into the manifest, and the
// Keys. Extract and List open a volume with exactly these. Neither reads the
// file's LUKS2 header, which whoever can write the file could have swapped
// (THREATS 19); it is there so that the owner can open the volume with
// cryptsetup and the keyslot key. Info shows what the header claims.
//
// A volume for reading carries a dm-verity hash tree over its ciphertext, and
// the pinned root hash makes any change an error. In one that a node made, each
// sector is authenticated (package integrity), unless the job said otherwise. In
// a volume for writing that was made here, changed ciphertext is not noticed.
//
// No plaintext image exists anywhere while a volume is made or read, and
// memory stays bounded whatever the size of the data.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"cloister/secret"
	"cloister/volume/ext4"
	"cloister/volume/integrity"
	"cloister/volume/luks2"
	"cloister/volume/verity"
	"cloister/volume/xts"
)

// Keys are the two secrets of a volume.
type Keys struct {
	VolumeKey  secret.Bytes // Pinned.KeySize bytes: AES-256-XTS, then, in an authenticated volume, HMAC-SHA256
	KeyslotKey secret.Bytes // 32 bytes: opens the LUKS2 keyslot, which holds VolumeKey
}

// Wipe overwrites both keys.
func (k Keys) Wipe() {
	k.VolumeKey.Wipe()
	k.KeyslotKey.Wipe()
}

// NewKeys draws fresh keys from rand, which must be crypto/rand.Reader outside
// tests, for a volume that is not authenticated.
func NewKeys(rand io.Reader) (Keys, error) { return newKeyPair(rand, luks2.VolumeKeySize) }

func newKeyPair(rand io.Reader, volumeKeySize int) (Keys, error) {
	vk, err := secret.Random(rand, volumeKeySize)
	if err != nil {
		return Keys{}, fmt.Errorf("making the volume key: %w", err)
	}
	kk, err := secret.Random(rand, luks2.KeyslotKeySize)
	if err != nil {
		vk.Wipe()
		return Keys{}, fmt.Errorf("making the keyslot key: %w", err)
	}
	return Keys{vk, kk}, nil
}

// Info returns what the LUKS2 header of the file says. Nothing in it is
// authenticated: it is for the owner's eyes, not for opening.
func Info(path string) (*luks2.Header, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	defer f.Close()
	h, err := luks2.Read(f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// ErrCutOff says that a file is shorter than its volume.
var ErrCutOff = errors.New("it was cut off or is another one")

// ErrContents says that a volume holds no file system that can be read. In a
// volume for writing, a wrong key and changed data look like this.
var ErrContents = errors.New("the volume does not hold what it should")

// ErrInUse says that somebody else has the volume open for writing.
var ErrInUse = errors.New("the volume is in use: another program has it open for writing")

// openRegular opens for reading and refuses everything but regular files,
// without hanging on a FIFO.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// chunkSize is the unit of parallel work in bytes: whole hash blocks of the
// tree's leaf level (512 KiB of data each), large enough to amortise system
// calls, small enough that a few for each core stay within 64 MB.
const chunkSize = 2 * verity.PerBlock * verity.BlockSize

// pieceSize is what a core reads, transforms and writes at a time, in bytes:
// a fraction of its second-level cache (1 to 2 MiB).
const pieceSize = 256 << 10

// payload reads a volume's payload with pinned parameters. It is safe for
// concurrent use.
type payload struct {
	f      *os.File
	pinned Pinned
	cipher *xts.Cipher
	tree   *verity.Verifier  // nil if the volume is for writing
	tags   *integrity.Reader // in place of cipher, if the volume is authenticated
}

func openPayload(path string, p Pinned, volumeKey secret.Bytes) (*payload, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("opening the volume %s: pinned parameters: %w", path, err)
	}
	if volumeKey.Len() != p.KeySize() {
		return nil, fmt.Errorf("opening the volume %s: volume key of %d bytes, want %d", path, volumeKey.Len(), p.KeySize())
	}
	f, size, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	v := &payload{f: f, pinned: p}
	if p.Verity == nil {
		if err := lock(f, false); err != nil {
			f.Close()
			return nil, fmt.Errorf("opening the volume %s: %w", path, err)
		}
	}
	if size < p.End() {
		f.Close()
		return nil, fmt.Errorf("opening the volume %s: the file has %d bytes, the volume %d: %w", path, size, p.End(), ErrCutOff)
	}
	if err := v.expand(volumeKey); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the volume %s: %w", path, err)
	}
	if p.Verity != nil {
		if v.tree, err = p.Verity.verifier(f, p.PayloadSize); err != nil {
			v.Close()
			return nil, fmt.Errorf("opening the volume %s: %w", path, err)
		}
	}
	return v, nil
}

// expand makes the volume key ready for use.
func (v *payload) expand(volumeKey secret.Bytes) (err error) {
	if v.pinned.Integrity == nil {
		v.cipher, err = xts.New(volumeKey)
		return err
	}
	l, err := integrity.NewLayout(v.pinned.PayloadSize)
	if err != nil {
		return err
	}
	area := io.NewSectionReader(v.f, v.pinned.PayloadOffset, l.AreaSize())
	v.tags, err = integrity.NewReader(area, l, volumeKey)
	return err
}

// Close wipes the expanded key. Nobody may be reading.
func (v *payload) Close() error {
	if v.tags != nil {
		v.tags.Wipe()
	} else {
		v.cipher.Wipe()
	}
	return v.f.Close()
}

// state reads the state of an authenticated volume; others have none.
func (v *payload) state() (State, error) {
	if v.tags == nil {
		return State{}, nil
	}
	b := make([]byte, StateSize)
	if _, err := v.ReadAt(b, v.pinned.FileSystemSize()); err != nil {
		return State{}, fmt.Errorf("reading the volume's state: %w", err)
	}
	s, err := ParseState(b)
	if err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrContents, err)
	}
	return s, nil
}

// Current opens the volume and returns its state, after checking that it is not
// older than known, the newest that was seen, and that it was closed. With any,
// neither is demanded. A volume without authentication has the zero State.
func Current(path string, p Pinned, volumeKey secret.Bytes, known State, any bool) (State, error) {
	v, err := openPayload(path, p, volumeKey)
	if err != nil {
		return State{}, printableError{err}
	}
	defer v.Close()
	s, err := v.state()
	if err == nil && !any {
		err = s.After(known)
	}
	if err == nil && !any && s.Unclosed() {
		err = fmt.Errorf("%w since job %s opened it: it runs, was killed, or its node died", ErrUnclosed, s.Job)
	}
	if err != nil {
		return s, printableError{fmt.Errorf("%s: %w", path, err)}
	}
	return s, nil
}

// fileSystem opens the file system in the payload.
func (v *payload) fileSystem() (*ext4.FS, error) {
	fs, err := ext4.Open(v, v.pinned.FileSystemSize())
	if err == nil || errors.Is(err, verity.ErrCorrupt) || errors.Is(err, integrity.ErrAltered) || errors.Is(err, ext4.ErrNeedsRecovery) {
		return fs, err
	}
	return nil, fmt.Errorf("%w: %w", ErrContents, err)
}

// A checker is what readBlocks needs for one goroutine: at most one of the two.
type checker struct {
	tree *verity.Hasher
	tags *integrity.Opener
}

func (v *payload) checker() (c checker) {
	switch {
	case v.tags != nil:
		c.tags = v.tags.Opener()
	case v.tree != nil:
		c.tree = v.tree.Hasher()
	}
	return c
}

// readBlocks reads, verifies and decrypts whole blocks at offset off of the
// payload.
func (v *payload) readBlocks(c checker, buf []byte, off int64) error {
	if off < 0 || off%verity.BlockSize != 0 || len(buf)%verity.BlockSize != 0 || off > v.pinned.PayloadSize-int64(len(buf)) {
		return fmt.Errorf("reading %d bytes at %d: outside the payload", len(buf), off)
	}
	if c.tags != nil {
		return c.tags.Read(buf, off)
	}
	if _, err := v.f.ReadAt(buf, v.pinned.PayloadOffset+off); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the volume at %d: %w", v.pinned.PayloadOffset+off, err)
	}
	if v.tree != nil {
		if err := v.tree.Check(c.tree, off/verity.BlockSize, buf); err != nil {
			return err
		}
	}
	v.cipher.Decrypt(buf, buf, int(v.pinned.SectorSize), off)
	return nil
}

// ReadAt reads any range of the decrypted payload.
func (v *payload) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off > v.pinned.PayloadSize-int64(len(b)) {
		return 0, io.ErrUnexpectedEOF
	}
	c := v.checker()
	buf := make([]byte, min(chunkSize, (len(b)/verity.BlockSize+2)*verity.BlockSize))
	for n := 0; n < len(b); {
		from := (off + int64(n)) / verity.BlockSize * verity.BlockSize
		// No more than is asked for: the next block may never have been written.
		end := (off + int64(len(b)) + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize
		part := buf[:min(int64(len(buf)), end-from)]
		if err := v.readBlocks(c, part, from); err != nil {
			return n, err
		}
		n += copy(b[n:], part[off+int64(n)-from:])
	}
	return len(b), nil
}

// parallel runs work on one goroutine more than there are cores, to compute while
// another waits, until all are done, one fails or ctx ends. Linux lets one thread
// at a time write into a file while the others spin: who writes in work holds a
// lock of ours.
func parallel(ctx context.Context, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) + 1 {
		wg.Go(func() {
			if err := work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// inChunks runs over size bytes on every core, in pieces of chunkSize with a
// buffer for each. worker is called once a goroutine for what it does with a
// piece.
func inChunks(ctx context.Context, size int64, worker func() func(buf []byte, off int64) error) error {
	var next atomic.Int64
	return parallel(ctx, func(ctx context.Context) error {
		do, buf := worker(), make([]byte, chunkSize)
		for {
			off := (next.Add(1) - 1) * chunkSize
			n := min(chunkSize, size-off)
			if n <= 0 {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := do(buf[:n], off); err != nil {
				return err
			}
		}
	})
}
