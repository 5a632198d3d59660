package volume

import (
	"context"
	"fmt"

	"cloister/secret"
	"cloister/volume/ext4"
	"cloister/volume/luks2"
)

// CheckOptions says what volume to check.
type CheckOptions struct {
	Path      string
	Pinned    Pinned
	VolumeKey secret.Bytes
	// Progress, if not nil, is called from one goroutine at a time with bytes.
	Progress func(done, total int64)
}

// Report is what Check found.
type Report struct {
	// Header lists what is wrong with the header. It does not keep the volume
	// from being opened, for opening does not read it.
	Header []string
	// Verified tells that every byte of the payload was compared with the
	// pinned root hash, or, in an authenticated volume, every sector in use with
	// its tag; a volume for writing that was made here has neither.
	Verified bool
	Names    int // in the file system
}

// Check reads a whole volume with the pinned parameters: the payload against
// the hash tree, if there is one, and all structures of the file system. An
// error says that the volume cannot be used; verity.ErrCorrupt that it was
// changed. What is wrong with the header is in the report.
func Check(ctx context.Context, o CheckOptions) (Report, error) {
	r, err := check(ctx, o)
	if err != nil {
		return r, printableError{fmt.Errorf("checking the volume %s: %w", o.Path, err)}
	}
	return r, nil
}

func check(ctx context.Context, o CheckOptions) (r Report, err error) {
	v, err := openPayload(o.Path, o.Pinned, o.VolumeKey)
	if err != nil {
		return r, err
	}
	defer v.Close()
	if r.Header, err = v.checkHeader(o.VolumeKey); err != nil {
		return r, err
	}
	if v.tree != nil {
		if err := v.verifyAll(ctx, o.Progress); err != nil {
			return r, err
		}
		r.Verified = true
	}
	fs, err := v.fileSystem()
	if err != nil {
		return r, err
	}
	r.Verified = r.Verified || v.tags != nil
	contents := v.contentChecker(ctx, o.Progress)
	err = fs.Walk(func(e ext4.Visit) error {
		r.Names++
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := e.File.Xattrs(); err != nil {
			return fmt.Errorf("%s: %w", e.Path(), err)
		}
		switch {
		case e.First != "":
		case e.File.IsSymlink():
			_, err = e.File.Readlink()
		case e.File.IsRegular():
			err = contents(e.File)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path(), err)
		}
		return nil
	}, func(string) error { return nil })
	return r, err
}

// contentChecker reads the contents of files where only reading shows whether
// they were altered.
func (v *payload) contentChecker(ctx context.Context, report func(done, total int64)) func(*ext4.File) error {
	c, p := v.checker(), progress{report: report}
	var buf []byte
	if v.tags != nil {
		buf = make([]byte, chunkSize)
	}
	return func(f *ext4.File) error {
		extents, err := f.Extents()
		if err != nil || v.tags == nil {
			return err
		}
		for _, e := range extents {
			p.expect(e.Count * ext4.BlockSize)
			for at, end := e.Physical*ext4.BlockSize, (e.Physical+e.Count)*ext4.BlockSize; at < end; at += chunkSize {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				n := min(chunkSize, end-at)
				if err := v.readBlocks(c, buf[:n], at); err != nil {
					return err
				}
				p.add(n)
			}
		}
		return nil
	}
}

func (v *payload) checkHeader(volumeKey secret.Bytes) (problems []string, err error) {
	st, err := v.f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := luks2.Read(v.f, st.Size())
	if err != nil {
		return []string{err.Error()}, nil
	}
	if h.Primary != nil {
		problems = append(problems, fmt.Sprintf("primary header: %v", h.Primary))
	}
	if h.Secondary != nil {
		problems = append(problems, fmt.Sprintf("secondary header: %v", h.Secondary))
	}
	if err := headerMatches(h, v.pinned, volumeKey); err != nil {
		problems = append(problems, fmt.Sprintf("header: %v", err))
	}
	return problems, nil
}

// verifyAll reads the whole payload through the hash tree.
func (v *payload) verifyAll(ctx context.Context, report func(done, total int64)) error {
	p := progress{report: report}
	p.expect(v.pinned.PayloadSize)
	return inChunks(ctx, v.pinned.PayloadSize, func() func([]byte, int64) error {
		c := v.checker()
		return func(buf []byte, off int64) error {
			if err := v.readBlocks(c, buf, off); err != nil {
				return err
			}
			p.add(int64(len(buf)))
			return nil
		}
	})
}
