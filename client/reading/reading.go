// Package reading lets Ctrl-C end the reading of a large file, and a progress
// line follow it.
package reading

import (
	"context"
	"io"
)

// At returns an io.ReaderAt of r for one goroutine. When ctx has ended it reads
// no more and returns ctx's cause. After each read it calls progress, if not
// nil, with the bytes read so far and total, those that will be.
func At(ctx context.Context, r io.ReaderAt, total int64, progress func(done, total int64)) io.ReaderAt {
	return &readerAt{ctx, r, 0, total, progress}
}

type readerAt struct {
	ctx         context.Context
	r           io.ReaderAt
	done, total int64
	progress    func(done, total int64)
}

func (r *readerAt) ReadAt(b []byte, off int64) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.ReadAt(b, off)
	r.done += int64(n)
	if r.progress != nil {
		r.progress(r.done, r.total)
	}
	return n, err
}
