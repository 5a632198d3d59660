package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// versions are the images of two trees in one geometry, with an empty journal.
type versions struct {
	before, after []byte
	journal       int64 // its first block
}

func newVersions(t testing.TB) versions {
	t.Helper()
	// A block that begins like one of the journal's own is escaped in it.
	link := func(target string) Entry {
		return Entry{"link", &Inode{Mode: typeSymlink | 0o777, Target: target + strings.Repeat("s", 100), Path: "link"}}
	}
	names := func(word string) *Inode {
		var all []Entry
		for i := range 40 {
			all = append(all, Entry{fmt.Sprintf("%s-%02d", word, i), &Inode{Mode: typeRegular | 0o600, Path: word}})
		}
		return directory(".", directory("sub", all...), link(word)).Inode
	}
	image := func(root *Inode) ([]byte, int64) {
		im, err := NewImage(root, Options{Size: 16 << 20, Journal: true, FullJournal: true, UUID: [16]byte{1, 2, 3}})
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, im.Size())
		if err := im.Fill(b, 0, contents{}.open); err != nil {
			t.Fatal(err)
		}
		return b, int64(im.journal.data)
	}
	v := versions{}
	v.before, v.journal = image(names("older"))
	v.after, _ = image(names("\xC0\x3B\x39\x98"))
	return v
}

// changed lists the blocks in which the two differ.
func (v versions) changed() (blocks []int64) {
	for n := range int64(len(v.before) / BlockSize) {
		if !bytes.Equal(v.before[n*BlockSize:][:BlockSize], v.after[n*BlockSize:][:BlockSize]) {
			blocks = append(blocks, n)
		}
	}
	return blocks
}

// transaction is one for debugfs to write.
type transaction struct {
	from    []byte
	blocks  []int64
	revoke  []int64
	partial bool // without its end
}

// journalled has e2fsprogs write transactions into the journal of the image
// before, and returns the file and, as an oracle, what e2fsck makes of it.
func (v versions) journalled(t testing.TB, all ...transaction) (path string, replayed []byte) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "image")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.WriteFile(path, v.before, 0o600))
	script := "jo -c -v 3\n"
	list := func(blocks []int64) string {
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(blocks), " ", ","), "[]")
	}
	for i, tr := range all {
		script += "jw"
		if tr.partial {
			script += " -c"
		}
		if len(tr.revoke) > 0 {
			script += " -r " + list(tr.revoke)
		}
		var content []byte
		for _, n := range tr.blocks {
			content = append(content, tr.from[n*BlockSize:][:BlockSize]...)
		}
		from := filepath.Join(dir, fmt.Sprint(i))
		check(os.WriteFile(from, content, 0o600))
		if len(tr.blocks) > 0 {
			script += " -b " + list(tr.blocks) + " " + from
		}
		script += "\n"
	}
	commands := filepath.Join(dir, "commands")
	check(os.WriteFile(commands, []byte(script+"jc\n"), 0o600))
	out := run(t, "debugfs", "-w", "-f", commands, path)
	if strings.Contains(out, "jw: ") || strings.Contains(out, "Usage") {
		t.Fatal(out)
	}
	oracle := filepath.Join(dir, "oracle")
	b, err := os.ReadFile(path)
	check(err)
	check(os.WriteFile(oracle, b, 0o600))
	run(t, "debugfs", "-w", "-R", "jr", oracle)
	replayed, err = os.ReadFile(oracle)
	check(err)
	return path, replayed
}

func listed(t testing.TB, b []byte) map[string]string {
	t.Helper()
	out, err := list(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAJournalCountsAsE2fsprogsReplaysIt(t *testing.T) {
	v := newVersions(t)
	changed := v.changed()
	if len(changed) < 3 {
		t.Fatalf("only %d blocks differ", len(changed))
	}
	older, newer := listed(t, v.before), listed(t, v.after)
	all := transaction{from: v.after, blocks: changed}
	back := transaction{from: v.before, blocks: changed}
	for name, c := range map[string]struct {
		transactions []transaction
		want         map[string]string
	}{
		"one transaction":          {[]transaction{all}, newer},
		"a later one counts":       {[]transaction{all, back}, older},
		"in two transactions":      {[]transaction{{from: v.after, blocks: changed[:2]}, {from: v.after, blocks: changed[2:]}}, newer},
		"one without its end":      {[]transaction{{from: v.after, blocks: changed, partial: true}}, older},
		"the last without its end": {[]transaction{all, {from: v.before, blocks: changed, partial: true}}, newer},
		"all is revoked":           {[]transaction{all, {revoke: changed}}, older},
		"revoked and then written": {[]transaction{all, {revoke: changed}, all}, newer},
		"many":                     {append(slices.Repeat([]transaction{back}, 20), all), newer},
	} {
		t.Run(name, func(t *testing.T) {
			path, replayed := v.journalled(t, c.transactions...)
			if got := read(t, path); !maps.Equal(got, c.want) {
				t.Errorf("%d names, of which one is %q", len(got), slices.Sorted(maps.Keys(got))[0])
			}
			if got := listed(t, replayed); !maps.Equal(got, c.want) {
				t.Error("e2fsprogs see it otherwise")
			}
		})
	}
}

func TestAnAlteredByteOfAJournalIsFoundByItsChecksum(t *testing.T) {
	v := newVersions(t)
	path, _ := v.journalled(t, transaction{from: v.after, blocks: v.changed()}, transaction{revoke: []int64{5000}})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	listed(t, b)
	log := b[v.journal*BlockSize:]
	for at := 0; ; at += BlockSize {
		if at > BlockSize && binary.BigEndian.Uint32(log[at:]) != jbdMagic && len(bytes.Trim(log[at:][:BlockSize], "\x00")) == 0 {
			if at < 4*BlockSize {
				t.Fatal("the journal is empty")
			}
			break
		}
		for _, within := range []int{16, 20, 28, 0x40, 1000, 4090} {
			if at == 0 && within > superSize {
				continue
			}
			bad := bytes.Clone(b)
			bad[int(v.journal)*BlockSize+at+within] ^= 1
			if _, err := list(bytes.NewReader(bad), int64(len(bad))); err == nil {
				t.Errorf("block %d of the journal, byte %d: nothing noticed", at/BlockSize, within)
			}
		}
	}
}

func TestAJournalOfAnotherKindIsAClearError(t *testing.T) {
	v := newVersions(t)
	path, _ := v.journalled(t, transaction{from: v.after, blocks: v.changed()})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, feature := range []byte{0x4, 0x8, 0x20, 0x80} {
		bad := bytes.Clone(b)
		bad[v.journal*BlockSize+0x2B] |= feature
		if _, err := list(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, ErrNeedsRecovery) {
			t.Errorf("feature %#x: %v", feature, err)
		}
	}
}

// resum makes the checksums of a journal's own blocks right again.
func resum(log []byte) {
	be := binary.BigEndian
	seed := crc(^uint32(0), log[0x30:0x40])
	put := func(seed uint32, b []byte, at int) {
		be.PutUint32(b[at:], 0)
		be.PutUint32(b[at:], crc(seed, b))
	}
	put(^uint32(0), log[:superSize], 0xFC)
	for b := log[BlockSize:]; len(b) >= BlockSize; b = b[BlockSize:] {
		if be.Uint32(b) != jbdMagic {
			continue
		}
		switch be.Uint32(b[4:]) {
		case jbdDescriptor, jbdRevoke:
			put(seed, b[:BlockSize], BlockSize-jbdTail)
		case jbdCommit:
			put(seed, b[:BlockSize], jbdHeader+4)
		}
	}
}

// FuzzReplay changes a journal, whose own blocks' checksums are then made right:
// whatever it says, the reader ends, within its bounds. The patch is offset (2
// bytes, little endian) and two new bytes.
func FuzzReplay(f *testing.F) {
	v := newVersions(f)
	path, _ := v.journalled(f, transaction{from: v.after, blocks: v.changed()}, transaction{revoke: v.changed()}, transaction{from: v.after, blocks: v.changed()})
	base, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{0x12, 0, 0, 2})                    // a log of two blocks
	f.Add([]byte{0x16, 0, 0x10, 0})                 // a log that wraps to the end
	f.Add([]byte{0x1E, 0, 0, 2})                    // a start in the middle
	f.Add([]byte{0x0E, 0x10, 0xFF, 0xFF})           // a block outside
	f.Add([]byte{0x12, 0x10, 0, 0, 0x22, 0x10, 0})  // a descriptor without an end
	f.Add([]byte{0x2A, 0, 0, 0x13, 0x0E, 0x60, 15}) // revocations of 64 bits, of a size of its own
	f.Fuzz(func(t *testing.T, patch []byte) {
		if len(patch) > 400 {
			return
		}
		b := bytes.Clone(base)
		log := b[v.journal*BlockSize:][:16*BlockSize]
		for ; len(patch) >= 4; patch = patch[4:] {
			copy(log[int(le.Uint16(patch))%(len(log)-1):], patch[2:4])
		}
		resum(log)
		listUpTo(bytes.NewReader(b), int64(len(b)), 1<<20)
	})
}
