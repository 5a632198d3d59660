package volume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cloister/secret"
	"cloister/volume/ext4"
	"cloister/volume/luks2"
	"cloister/volume/verity"
	"cloister/volume/xts"
)

// CreateOptions says what volume to make.
type CreateOptions struct {
	Path  string    // of the volume; appears only when it is complete
	From  string    // directory whose contents go into the volume
	Tar   io.Reader // or a tar stream with what goes into it
	Label string    // for the LUKS2 header, in the clear; at most 47 bytes
	// Writable makes a volume for writing: no hash tree, so changes to the
	// file are not noticed, and room for new files: Free bytes, or what a file
	// system of Size bytes leaves.
	Writable bool
	Free     int64
	Size     int64
	// HideFreeSpace fills free space with noise, so that the file does not
	// show how full the volume is; it then takes its whole size on disk.
	HideFreeSpace bool
	// KeyslotKey, if not empty, is the owner's own key of 256 random bits. The
	// Keys that Create returns hold a copy.
	KeyslotKey secret.Bytes
	// Passphrase, if not empty, opens a second keyslot, by derivation KDF.
	Passphrase secret.Bytes
	KDF        luks2.KDF
	Force      bool // replace an existing file
	// Keep, if not nil, is given what opens the volume just before the file
	// gets its name, so that no volume appears whose keys are kept nowhere.
	Keep func(Pinned, Keys) error
	// Progress, if not nil, is called from one goroutine at a time with bytes.
	Progress func(done, total int64)
	Rand     io.Reader // crypto/rand.Reader outside tests

	volume *payload // or another volume, by Grow
}

// ErrExists says that the volume or target is already there.
var ErrExists = errors.New("already exists")

// Create makes a volume from a directory or a tar stream. It writes to a
// temporary file beside Path, syncs it and renames it; on any error or when ctx
// ends nothing stays behind, unless the renaming itself is what failed: then the
// volume may be there, now or once a server or disk is back. The caller keeps Pinned and Keys: without them the
// volume is lost.
func Create(ctx context.Context, o CreateOptions) (Pinned, Keys, error) {
	p, k, err := create(ctx, o)
	if err != nil {
		return Pinned{}, Keys{}, printableError{fmt.Errorf("creating the volume %s: %w", o.Path, err)}
	}
	return p, k, nil
}

func create(ctx context.Context, o CreateOptions) (_ Pinned, _ Keys, err error) {
	if (o.Free != 0 || o.Size != 0) && !o.Writable {
		return Pinned{}, Keys{}, errors.New("room to grow needs a volume for writing")
	}
	if o.Free != 0 && o.Size != 0 {
		return Pinned{}, Keys{}, errors.New("give the free space or the size, not both")
	}
	if !o.Force {
		if err := mustNotExist(o.Path); err != nil {
			return Pinned{}, Keys{}, err
		}
	}
	id, err := newUUID(o.Rand)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	layout := ext4.Options{Free: o.Free, Size: (o.Size + ext4.BlockSize - 1) / ext4.BlockSize * ext4.BlockSize, Seconds: time.Now().Unix()}
	if layout.UUID, err = newUUID(o.Rand); err != nil {
		return Pinned{}, Keys{}, err
	}
	keys, err := newKeys(o)
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	w := writer{o: o}
	defer func() {
		if w.cipher != nil {
			w.cipher.Wipe()
		}
		if err != nil {
			w.abandon()
			keys.Wipe()
		}
	}()
	switch {
	case o.Tar != nil:
		err = w.fromTar(ctx, formatUUID(id), layout, keys)
	case o.volume != nil:
		err = w.fromVolume(ctx, formatUUID(id), layout, keys)
	default:
		err = w.fromDir(ctx, formatUUID(id), layout, keys)
	}
	if err == nil {
		err = w.finish(ctx, keys)
	}
	if err != nil {
		return Pinned{}, Keys{}, err
	}
	return w.pinned, keys, nil
}

func newKeys(o CreateOptions) (Keys, error) {
	keys, err := NewKeys(o.Rand)
	if err != nil || o.KeyslotKey.Len() == 0 {
		return keys, err
	}
	if o.KeyslotKey.Len() != luks2.KeyslotKeySize {
		keys.Wipe()
		return Keys{}, fmt.Errorf("a key of %d bytes: it must be %d random bytes", o.KeyslotKey.Len(), luks2.KeyslotKeySize)
	}
	copy(keys.KeyslotKey.Reveal(), o.KeyslotKey.Reveal())
	return keys, nil
}

// writer is one Create at work.
type writer struct {
	o      CreateOptions
	root   *os.Root
	volume *volumeTree // or the volume that contents come from
	im     *ext4.Image
	pinned Pinned

	f      *os.File
	cipher *xts.Cipher
	salt   []byte
	tree   *verity.Builder

	next    atomic.Int64 // the next chunk to be done
	writing sync.Mutex   // of f; see parallel
	mu      sync.Mutex
	done    int64
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

// fromDir writes the payload and all but the root of the tree.
func (w *writer) fromDir(ctx context.Context, uuid string, layout ext4.Options, keys Keys) error {
	if err := mustLieOutside(w.o.Path, w.o.From); err != nil {
		return err
	}
	root, err := os.OpenRoot(w.o.From)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := scan(ctx, root)
	if err != nil {
		return err
	}
	w.root = root
	if err := w.begin(keys); err != nil {
		return err
	}
	if err := w.plan(uuid, tree, layout); err != nil {
		return err
	}
	return parallel(ctx, w.chunks)
}

// begin makes the temporary file.
func (w *writer) begin(keys Keys) (err error) {
	if w.cipher, err = xts.New(keys.VolumeKey); err != nil {
		return err
	}
	dir, name := filepath.Split(w.o.Path)
	// CreateTemp makes the file with mode 0600.
	w.f, err = os.CreateTemp(orHere(dir), "."+name+".*.part")
	return err
}

// abandon takes the temporary file away.
func (w *writer) abandon() {
	if w.f != nil {
		w.f.Close()
		os.Remove(w.f.Name())
	}
}

// plan lays the file system out and makes the file as long as it will be.
func (w *writer) plan(uuid string, tree *ext4.Inode, layout ext4.Options) (err error) {
	if w.im, err = ext4.NewImage(tree, layout); err != nil {
		return err
	}
	w.pinned = pin(uuid, w.im.Size())
	if !w.o.Writable {
		if err := w.planTree(); err != nil {
			return err
		}
		at := io.NewOffsetWriter(w.f, w.pinned.Verity.HashOffset)
		if w.tree, err = verity.NewBuilder(at, w.pinned.PayloadSize/verity.BlockSize, w.salt); err != nil {
			return err
		}
	}
	return w.f.Truncate(w.pinned.End())
}

// finish writes the header and gives the file its name.
func (w *writer) finish(ctx context.Context, keys Keys) error {
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
	if err := w.header(keys); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	if w.o.Keep != nil {
		if err := w.o.Keep(w.pinned, keys); err != nil {
			return err
		}
	}
	if err := moveInPlace(w.f.Name(), w.o.Path, w.o.Force); err != nil {
		return err
	}
	return syncDir(orHere(filepath.Dir(w.o.Path)))
}

func (w *writer) header(keys Keys) error {
	header, err := luks2.Encode(w.o.Rand, w.pinned.params(w.o.Label), keys.VolumeKey, keys.KeyslotKey)
	if err != nil {
		return err
	}
	if _, err := w.f.WriteAt(header, 0); err != nil {
		return err
	}
	if w.o.Passphrase.Len() == 0 {
		return nil
	}
	_, err = luks2.AddKeyslot(w.o.Rand, w.f, w.pinned.End(), keys.VolumeKey, w.o.Passphrase, w.o.KDF)
	return err
}

// chunks is one worker: it takes chunks until none is left.
func (w *writer) chunks(ctx context.Context) error {
	src := &sources{root: w.root, volume: w.volume}
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

// chunk does a piece after the other, so that one is still in the core's cache
// when it is hashed and written.
func (w *writer) chunk(hasher *verity.Hasher, src *sources, buf []byte, off int64) error {
	first, blocks := off/verity.BlockSize, int64(len(buf))/verity.BlockSize
	used := buf[:w.toWrite(first, blocks)*verity.BlockSize]
	digests := make([]byte, 0, blocks*verity.DigestSize)
	for at := off; len(used) > 0; {
		piece := used[:min(pieceSize, len(used))]
		if err := w.im.Fill(piece, at/verity.BlockSize, src.open); err != nil {
			return err
		}
		w.cipher.Encrypt(piece, piece, luks2.SectorSize, at)
		if hasher != nil {
			digests = hasher.Append(digests, piece)
		}
		if err := w.write(piece, w.pinned.PayloadOffset+at); err != nil {
			return err
		}
		used, at = used[len(piece):], at+int64(len(piece))
	}
	return w.leaves(hasher, digests, first, blocks)
}

// leaves puts digests of blocks from first on into the hash tree, and those of
// the zeros that follow.
func (w *writer) leaves(hasher *verity.Hasher, digests []byte, first, blocks int64) error {
	if w.tree == nil {
		return nil
	}
	zero := w.tree.ZeroDigest()
	for int64(len(digests)) < blocks*verity.DigestSize {
		digests = append(digests, zero[:]...)
	}
	return w.tree.SetLeaves(hasher, first, digests)
}

// toWrite is how many of the blocks from first on are written; what follows
// stays a hole.
func (w *writer) toWrite(first, blocks int64) int64 {
	if w.o.HideFreeSpace {
		return blocks // zeros become noise like everything else
	}
	return w.im.Used(first, blocks)
}

// write writes b at the volume's byte at.
func (w *writer) write(b []byte, at int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	_, err := w.f.WriteAt(b, at)
	return err
}
