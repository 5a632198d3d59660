package ext4

import "errors"

// A Stream places the contents of regular files one after the other, before
// it is known how many come. The rest of the file system then lies behind them:
// only the super block and the group descriptors must come first, and for
// these it keeps room.
type Stream struct{ next uint32 }

const (
	// StreamStart is the first block of contents: room for 256 blocks of group
	// descriptors, which is 1 MiB that stays sparse, and for 4 TiB.
	StreamStart = 1 + 256
	streamLimit = int64(StreamStart-1) * (BlockSize / descSize) * blocksPerGroup * BlockSize
)

// NewStream begins an empty stream.
func NewStream() *Stream { return &Stream{StreamStart} }

// Offset is where the next block of contents goes, in bytes from the file
// system's beginning.
func (s *Stream) Offset() int64 { return int64(s.next) * BlockSize }

// Begin places the next file: its blocks are those that follow.
func (s *Stream) Begin(i *Inode) { i.data, i.Holes = s.next, true }

// Add gives the file that was begun last the block of contents number block,
// which goes to Offset. Blocks that are left out are holes.
func (s *Stream) Add(i *Inode, block uint32) error {
	if s.Offset() >= streamLimit {
		return errors.New("laying out ext4: more than 4 TiB of contents in a stream")
	}
	s.next++
	if n := len(i.Data); n > 0 && i.Data[n-1].First+i.Data[n-1].Count == block {
		i.Data[n-1].Count++
		return nil
	}
	i.Data = append(i.Data, Run{block, 1})
	return nil
}

func (im *Image) streamed(i *Inode) bool {
	return im.opt.Stream != nil && i.Mode&typeMask == typeRegular
}

// Own is the two ranges of blocks, first and number, that the image itself
// produces by Fill when the contents came by a stream.
func (im *Image) Own() [2][2]int64 {
	return [2][2]int64{{0, 1 + int64(im.gdtBlocks())}, {int64(im.front), int64(im.used - im.front)}}
}
