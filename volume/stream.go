package volume

import (
	"context"
	"fmt"
	"io"

	"cloister/volume/ext4"
	"cloister/volume/luks2"
	"cloister/volume/verity"
)

// fromTar writes the payload and all but the root of the tree, in one pass over
// the tar stream: contents are encrypted and written as they come, everything
// else of the file system behind them. The hash tree is then made over the
// ciphertext, which is read once more.
func (w *writer) fromTar(ctx context.Context, uuid string, layout ext4.Options, keys Keys) error {
	if err := w.begin(keys); err != nil {
		return err
	}
	in := newTarTree(w.o.Tar)
	layout.Stream = in.stream
	batches := make(chan batch, 2)
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	read := make(chan error, 1)
	go func() {
		defer close(batches)
		read <- in.read(func(b batch) error {
			select {
			case batches <- b:
				return nil
			case <-within.Done():
				return context.Cause(within)
			}
		})
	}()
	err := parallel(ctx, func(ctx context.Context) error { return w.writeBatches(ctx, batches) })
	stop(err)
	if rerr := <-read; err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	if err := w.plan(uuid, in.root, layout); err != nil {
		return err
	}
	if err := w.fillRest(ctx); err != nil {
		return err
	}
	return w.hashCiphertext(ctx)
}

// A batch is whole blocks of contents and where they go in the payload.
type batch struct {
	data []byte
	off  int64
}

func (w *writer) writeBatches(ctx context.Context, batches <-chan batch) error {
	for b := range batches {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.encrypt(b.data, b.off); err != nil {
			return err
		}
		w.mu.Lock()
		w.done += int64(len(b.data))
		if w.o.Progress != nil {
			w.o.Progress(w.done, 0) // how much will come is not known
		}
		w.mu.Unlock()
	}
	return nil
}

func (w *writer) encrypt(buf []byte, off int64) error {
	w.cipher.Encrypt(buf, buf, luks2.SectorSize, off)
	return w.write(buf, int64(luks2.PayloadOffset)+off)
}

// fill writes count blocks from first on, which produce makes, on all cores.
func (w *writer) fill(ctx context.Context, first, count int64, produce func(buf []byte, first int64) error) error {
	return inChunks(ctx, count*ext4.BlockSize, func() func([]byte, int64) error {
		return func(buf []byte, off int64) error {
			if err := produce(buf, first+off/ext4.BlockSize); err != nil {
				return err
			}
			return w.encrypt(buf, first*ext4.BlockSize+off)
		}
	})
}

// fillRest writes what did not come by the stream.
func (w *writer) fillRest(ctx context.Context) error {
	image := func(buf []byte, first int64) error { return w.im.Fill(buf, first, noContents) }
	noise := func(buf []byte, _ int64) error { clear(buf); return nil } // zeros become noise
	front, back := w.im.Own()[0], w.im.Own()[1]
	if err := w.fill(ctx, front[0], front[1], image); err != nil {
		return err
	}
	if err := w.fill(ctx, back[0], back[1], image); err != nil {
		return err
	}
	if !w.o.HideFreeSpace {
		return nil
	}
	gap := front[0] + front[1]
	if err := w.fill(ctx, gap, ext4.StreamStart-gap, noise); err != nil {
		return err
	}
	end := back[0] + back[1]
	return w.fill(ctx, end, w.pinned.PayloadSize/ext4.BlockSize-end, noise)
}

func noContents(i *ext4.Inode) (io.ReaderAt, error) {
	return nil, fmt.Errorf("%s: its contents came by the stream", i.Path)
}

// hashCiphertext makes the leaves of the hash tree from what was written.
func (w *writer) hashCiphertext(ctx context.Context) error {
	if w.tree == nil {
		return nil
	}
	return inChunks(ctx, w.pinned.PayloadSize, func() func([]byte, int64) error {
		hasher := verity.NewHasher(w.salt)
		return func(buf []byte, off int64) error {
			first, blocks := off/verity.BlockSize, int64(len(buf))/verity.BlockSize
			written := buf[:w.toWrite(first, blocks)*verity.BlockSize]
			if _, err := w.f.ReadAt(written, w.pinned.PayloadOffset+off); err != nil {
				return err
			}
			return w.leaves(hasher, hasher.Append(make([]byte, 0, blocks*verity.DigestSize), written), first, blocks)
		}
	})
}
