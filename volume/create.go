package volume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloister/volume/ext4"
	"cloister/volume/luks2"
	"cloister/volume/verity"
	"cloister/volume/xts"
)

// CreateOptions says what volume to make.
type CreateOptions struct {
	Path  string // of the volume; appears only when it is complete
	From  string // directory whose contents go into the volume
	Label string // for the LUKS2 header, in the clear; at most 47 bytes
	// Writable makes a volume for writing: no hash tree, so changes to the
	// file are not noticed, and Free bytes of room for new files.
	Writable bool
	Free     int64
	Force    bool // replace an existing file
	// Progress, if not nil, is called from one goroutine at a time with bytes.
	Progress func(done, total int64)
	Rand     io.Reader // crypto/rand.Reader outside tests
}

// ErrExists says that the volume or target is already there.
var ErrExists = errors.New("already exists")

// Create makes a volume from a directory. It writes to a temporary file beside
// Path, syncs it and renames it; on any error or when ctx ends nothing stays
// behind. The caller keeps Pinned and Keys: without them the volume is lost.
func Create(ctx context.Context, o CreateOptions) (Pinned, Keys, error) {
	p, k, err := create(ctx, o)
	if err != nil {
		return Pinned{}, Keys{}, printableError{fmt.Errorf("creating the volume %s: %w", o.Path, err)}
	}
	return p, k, nil
}

func create(ctx context.Context, o CreateOptions) (_ Pinned, _ Keys, err error) {
	if o.Free != 0 && !o.Writable {
		return Pinned{}, Keys{}, errors.New("room to grow needs a volume for writing")
	}
	if !o.Force {
		if err := mustNotExist(o.Path); err != nil {
			return Pinned{}, Keys{}, err
		}
	}
	if err := mustLieOutside(o.Path, o.From); err != nil {
		return Pinned{}, Keys{}, err
	}
	root, err := os.OpenRoot(o.From)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	defer root.Close()
	tree, err := scan(ctx, root)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	id, err := newUUID(o.Rand)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	fsID, err := newUUID(o.Rand)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	im, err := ext4.NewImage(tree, ext4.Options{UUID: fsID, Free: o.Free, Seconds: time.Now().Unix()})
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	keys, err := NewKeys(o.Rand)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	defer func() {
		if err != nil {
			keys.Wipe()
		}
	}()
	w := writer{o: o, root: root, im: im, pinned: pin(formatUUID(id), im.Size())}
	if !o.Writable {
		if err := w.planTree(); err != nil {
			return Pinned{}, Keys{}, err
		}
	}
	if err := w.write(ctx, keys); err != nil {
		return Pinned{}, Keys{}, err
	}
	return w.pinned, keys, nil
}

// writer is one Create at work.
type writer struct {
	o      CreateOptions
	root   *os.Root
	im     *ext4.Image
	pinned Pinned

	f      *os.File
	cipher *xts.Cipher
	salt   []byte
	tree   *verity.Builder

	next atomic.Int64 // the next chunk to be done
	mu   sync.Mutex
	done int64
}

func (w *writer) planTree() error {
	w.salt = make([]byte, verity.SaltSize)
	if _, err := io.ReadFull(w.o.Rand, w.salt); err != nil {
		return fmt.Errorf("reading random bytes: %w", err)
	}
	l, err := verity.NewLayout(w.im.Size() / verity.BlockSize)
	if err != nil {
		return err
	}
	w.pinned.Verity = &Verity{
		Algorithm: Algorithm, DataBlockSize: verity.BlockSize, HashBlockSize: verity.BlockSize,
		HashOffset: w.pinned.PayloadOffset + w.pinned.PayloadSize, HashSize: l.Blocks * verity.BlockSize,
		Salt: hex.EncodeToString(w.salt),
	}
	return nil
}

func (w *writer) write(ctx context.Context, keys Keys) (err error) {
	params := luks2.Params{Label: w.o.Label, UUID: w.pinned.UUID}
	if w.pinned.Verity != nil {
		params.PayloadSize = w.pinned.PayloadSize // the tree that follows is no payload
	}
	header, err := luks2.Encode(w.o.Rand, params, keys.VolumeKey, keys.KeyslotKey)
	if err != nil {
		return err
	}
	if w.cipher, err = xts.New(keys.VolumeKey); err != nil {
		return err
	}
	dir, name := filepath.Split(w.o.Path)
	// CreateTemp makes the file with mode 0600.
	if w.f, err = os.CreateTemp(orHere(dir), "."+name+".*.part"); err != nil {
		return err
	}
	temp := w.f.Name()
	defer func() {
		if err != nil {
			w.f.Close()
			os.Remove(temp)
		}
	}()
	if err := w.f.Truncate(w.pinned.End()); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(header, 0); err != nil {
		return err
	}
	if w.pinned.Verity != nil {
		at := io.NewOffsetWriter(w.f, w.pinned.Verity.HashOffset)
		if w.tree, err = verity.NewBuilder(at, w.pinned.PayloadSize/verity.BlockSize, w.salt); err != nil {
			return err
		}
	}
	if err := parallel(ctx, w.chunks); err != nil {
		return err
	}
	if w.tree != nil {
		root, err := w.tree.Finish()
		if err != nil {
			return err
		}
		w.pinned.Verity.RootHash = hex.EncodeToString(root[:])
	}
	if err := w.pinned.Validate(); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	if err := moveInPlace(temp, w.o.Path, w.o.Force); err != nil {
		return err
	}
	return syncDir(orHere(dir))
}

// chunks is one worker: it takes chunks until none is left.
func (w *writer) chunks(ctx context.Context) error {
	src := &sources{root: w.root}
	defer src.close()
	buf := make([]byte, chunkSize)
	var hasher *verity.Hasher
	if w.tree != nil {
		hasher = verity.NewHasher(w.salt)
	}
	for {
		off := (w.next.Add(1) - 1) * chunkSize
		n := min(chunkSize, w.pinned.PayloadSize-off)
		if n <= 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.chunk(hasher, src, buf[:n], off); err != nil {
			return err
		}
		w.mu.Lock()
		w.done += n
		if w.o.Progress != nil {
			w.o.Progress(w.done, w.pinned.PayloadSize)
		}
		w.mu.Unlock()
	}
}

func (w *writer) chunk(hasher *verity.Hasher, src *sources, buf []byte, off int64) error {
	first, blocks := off/verity.BlockSize, int64(len(buf))/verity.BlockSize
	used := buf[:w.im.Used(first, blocks)*verity.BlockSize]
	if len(used) > 0 {
		if err := w.im.Fill(used, first, src.open); err != nil {
			return err
		}
		w.cipher.Encrypt(used, used, luks2.SectorSize, off)
		if _, err := w.f.WriteAt(used, w.pinned.PayloadOffset+off); err != nil {
			return err
		}
	}
	if w.tree == nil {
		return nil
	}
	digests := make([]byte, 0, blocks*verity.DigestSize)
	for at := 0; at < len(used); at += verity.BlockSize {
		d := hasher.Sum(used[at:])
		digests = append(digests, d[:]...)
	}
	zero := w.tree.ZeroDigest()
	for int64(len(digests)) < blocks*verity.DigestSize {
		digests = append(digests, zero[:]...)
	}
	return w.tree.SetLeaves(hasher, first, digests)
}

func orHere(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func mustNotExist(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return ErrExists
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// mustLieOutside refuses a volume inside the directory that it is made of.
func mustLieOutside(path, from string) error {
	dir, err := filepath.EvalSymlinks(orHere(filepath.Dir(path)))
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return err
	}
	if from, err = filepath.Abs(from); err != nil {
		return err
	}
	if rel, err := filepath.Rel(from, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return fmt.Errorf("it would lie inside %s, the directory that it is made from", from)
	}
	return nil
}

// moveInPlace gives the finished file its name. A link fails where a rename
// would silently replace a file that appeared in the meantime.
func moveInPlace(temp, path string, force bool) error {
	if !force {
		err := os.Link(temp, path)
		if err == nil {
			return os.Remove(temp)
		}
		if errors.Is(err, os.ErrExist) {
			return ErrExists
		}
		// A file system without hard links: check, then rename.
		if err := mustNotExist(path); err != nil {
			return err
		}
	}
	return os.Rename(temp, path)
}
