package search

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os/exec"
)

const (
	// maxUnpacked bounds what one compressed member may become, in bytes: no file of the test is as large, and a
	// member of random bytes that looks like one must end.
	maxUnpacked = 256 << 20
	// maxDepth is how many layers of compression are opened.
	maxDepth = 2
)

// Magic numbers: RFC 1952 section 2.3.1, with deflate as the only method; RFC 8878 section 3.1.1.
var (
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// A Report is the outcome of one search.
type Report struct {
	Bytes   int64 // searched, without what was unpacked
	Members int   // compressed members that were opened and gave at least one byte
	Hits    []Hit
}

// Search looks through a stream of that size. Members of gzip and zstd are opened wherever they start; what
// follows a member, or damages it, ends it without an error.
func (m *Matcher) Search(ctx context.Context, r io.ReaderAt, size int64) (Report, error) {
	return m.search(ctx, r, size, maxDepth)
}

func (m *Matcher) search(ctx context.Context, r io.ReaderAt, size int64, depth int) (Report, error) {
	var out Report
	seen := make(map[Hit]bool) // windows overlap
	keep := m.longest()
	read, err := windows(io.NewSectionReader(r, 0, size), keep, func(b []byte, offset int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.find(b, func(p pattern, at int) {
			h := Hit{p.needle, p.form, offset + int64(at)}
			if !seen[h] {
				seen[h] = true
				out.Hits = append(out.Hits, h)
			}
		})
		if depth == 0 {
			return nil
		}
		for _, magic := range [][]byte{gzipMagic, zstdMagic} {
			from := 0
			if offset > 0 {
				from = keep - len(magic) + 1 // the rest was looked at with the window before
			}
			for {
				i := bytes.Index(b[from:], magic)
				if i < 0 {
					break
				}
				at := offset + int64(from+i)
				if err := m.member(ctx, &out, r, at, size, magic, depth); err != nil {
					return err
				}
				from += i + 1
			}
		}
		return nil
	})
	out.Bytes = read
	if err == nil && read != size {
		err = fmt.Errorf("search: the stream ended after %d of %d bytes", read, size)
	}
	return out, err
}

// member opens one compressed member and searches it.
func (m *Matcher) member(ctx context.Context, out *Report, r io.ReaderAt, at, size int64, magic []byte, depth int) error {
	packed := io.NewSectionReader(r, at, size-at)
	name, open := "gzip:", gunzip
	if &magic[0] == &zstdMagic[0] {
		name, open = "zstd:", unzstd
	}
	plain, err := open(ctx, packed)
	if err != nil {
		return err
	}
	if len(plain) == 0 {
		return nil
	}
	out.Members++
	inner, err := m.search(ctx, bytes.NewReader(plain), int64(len(plain)), depth-1)
	for _, h := range inner.Hits {
		out.Hits = append(out.Hits, Hit{h.Needle, name + h.Form, at})
	}
	out.Members += inner.Members
	return err
}

// gunzip returns what comes before the end of the member or its first fault. What is not gzip gives nothing.
func gunzip(_ context.Context, r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, nil
	}
	z.Multistream(false) // the next member has a magic number of its own
	plain, _ := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if len(plain) > maxUnpacked {
		return nil, fmt.Errorf("search: a gzip member unpacks to more than %d bytes", maxUnpacked)
	}
	return plain, nil
}

// zstdFrame bounds what is given to zstd, in bytes. It reads ahead, and would read to the end of the stream.
const zstdFrame = 16 << 20

// unzstd is gunzip by the zstd command: no Go package of the module reads it.
func unzstd(ctx context.Context, r io.Reader) ([]byte, error) {
	head := make([]byte, 18)
	n, _ := io.ReadFull(r, head)
	head = head[:n]
	if !zstdHeader(head) {
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, "zstd", "-dcq", "--no-progress")
	cmd.Stdin = io.MultiReader(bytes.NewReader(head), io.LimitReader(r, zstdFrame))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(pipe, maxUnpacked+1))
	over := len(plain) > maxUnpacked
	if over {
		cmd.Process.Kill()
	}
	_ = cmd.Wait() // what follows the frame is an error to zstd, and none here
	if over {
		return nil, fmt.Errorf("search: a zstd frame unpacks to more than %d bytes", maxUnpacked)
	}
	return plain, err
}

// zstdHeader leaves out the magic number in programs and tables: a frame header's reserved bit is zero and its first
// block is not of the reserved type (RFC 8878, sections 3.1.1.1 and 3.1.1.2).
func zstdHeader(b []byte) bool {
	if len(b) < 9 {
		return false
	}
	d := b[4]
	if d&0x08 != 0 {
		return false
	}
	size := 5
	if d&0x20 == 0 {
		size++ // window descriptor
	}
	size += []int{0, 1, 2, 4}[d&3] // dictionary
	switch d >> 6 {
	case 0:
		if d&0x20 != 0 {
			size++
		}
	case 1:
		size += 2
	case 2:
		size += 4
	case 3:
		size += 8
	}
	if len(b) < size+1 {
		return len(b) < 18 // too short to tell
	}
	return b[size]>>1&3 != 3
}

// Count says how often each needle was found in each form.
func (r Report) Count() map[string]map[string]int {
	out := make(map[string]map[string]int)
	for _, h := range r.Hits {
		if out[h.Needle] == nil {
			out[h.Needle] = make(map[string]int)
		}
		out[h.Needle][h.Form]++
	}
	return out
}
