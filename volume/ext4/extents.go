package ext4

// An extent as it is written.
type extent struct {
	logical, start uint32
	count          uint32
}

// extents returns the file's extents; its blocks lie in one piece from data on.
func (i *Inode) extents() []extent {
	var out []extent
	at := i.data
	add := func(logical, count uint32) {
		for count > 0 {
			n := min(count, extentMaxInit)
			out = append(out, extent{logical, at, n})
			logical, at, count = logical+n, at+n, count-n
		}
	}
	if i.Mode&typeMask != typeRegular {
		add(0, i.dataBlocks())
		return out
	}
	for _, r := range i.runs() {
		add(r.First, r.Count)
	}
	return out
}

func (i *Inode) extentCount() uint32 {
	if i.Mode&typeMask != typeRegular {
		return (i.dataBlocks() + extentMaxInit - 1) / extentMaxInit
	}
	n := uint32(0)
	for _, r := range i.runs() {
		n += (r.Count + extentMaxInit - 1) / extentMaxInit
	}
	return n
}

// treeBlocks counts the blocks of the extent tree outside the inode.
func (i *Inode) treeBlocks() uint32 {
	total := uint32(0)
	for n := i.extentCount(); n > extentsInInode; {
		n = (n + extentsPerBlock - 1) / extentsPerBlock
		total += n
	}
	return total
}

// buildTree returns the 60 bytes for the inode and the tree's blocks, leaves
// first.
func (i *Inode) buildTree(fsSeed uint32) (root [60]byte, blocks []byte) {
	type entry struct {
		logical uint32
		raw     [12]byte
	}
	var level []entry
	for _, e := range i.extents() {
		var r entry
		r.logical = e.logical
		le.PutUint32(r.raw[0:], e.logical)
		le.PutUint16(r.raw[4:], uint16(e.count))
		le.PutUint32(r.raw[8:], e.start)
		level = append(level, r)
	}
	seed := inodeSeed(fsSeed, i.number, 0)
	depth := uint16(0)
	at := i.tree
	for len(level) > extentsInInode {
		var up []entry
		for len(level) > 0 {
			n := min(len(level), extentsPerBlock)
			b := make([]byte, BlockSize)
			putExtentHeader(b, n, extentsPerBlock, depth)
			for k := range n {
				copy(b[12+12*k:], level[k].raw[:])
			}
			tail := 12 + 12*extentsPerBlock
			le.PutUint32(b[tail:], crc(seed, b[:tail]))
			var idx entry
			idx.logical = level[0].logical
			le.PutUint32(idx.raw[0:], idx.logical)
			le.PutUint32(idx.raw[4:], at)
			up = append(up, idx)
			blocks = append(blocks, b...)
			at++
			level = level[n:]
		}
		level = up
		depth++
	}
	putExtentHeader(root[:], len(level), extentsInInode, depth)
	for k := range level {
		copy(root[12+12*k:], level[k].raw[:])
	}
	return root, blocks
}

func putExtentHeader(b []byte, entries, room int, depth uint16) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(room))
	le.PutUint16(b[6:], depth)
}
