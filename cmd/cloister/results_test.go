package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"cloister/client/keystore"
	"cloister/volume"
	"cloister/volume/ext4"
	"cloister/volume/integrity"
	"cloister/volume/integrity/integritytest"

	"github.com/rogpeppe/go-internal/testscript"
)

// made writes an authenticated volume as a node leaves it for its owner, who has
// its keys: with the file hello.txt, and in the state that a counter and a job
// say. "garbled" as a fourth argument alters hello.txt, "garbled-journal" that.
func made(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: made V.luks COUNTER JOB [garbled|garbled-journal]")
	}
	counter, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	found, err := keystore.In(ts.Getenv("CLOISTER_HOME")).Named(args[0])
	ts.Check(err)
	if len(found) != 1 {
		ts.Fatalf("%d volumes are named %s", len(found), args[0])
	}
	p, k := found[0].Pinned, found[0].Keys
	f, err := os.Create(filepath.Join(ts.Getenv("WORK"), args[0]))
	ts.Check(err)
	defer f.Close()
	ts.Check(f.Truncate(p.End()))
	header, err := volume.HeaderForNewVolume(rand.Reader, p, found[0].Label, k)
	ts.Check(err)
	_, err = f.WriteAt(header, 0)
	ts.Check(err)
	l, err := integrity.NewLayout(p.PayloadSize)
	ts.Check(err)
	_, err = f.WriteAt(l.Head(), p.PayloadOffset)
	ts.Check(err)
	content := bytes.Repeat([]byte("hello\n"), 1000)
	file := &ext4.Inode{Mode: 0o100644, Size: int64(len(content)), Path: "hello.txt"}
	im, err := ext4.NewImage(&ext4.Inode{Mode: 0o040755, Path: ".", Entries: []ext4.Entry{{Name: "hello.txt", Inode: file}}}, ext4.Options{Size: p.FileSystemSize()})
	ts.Check(err)
	last := int64(0)
	block := make([]byte, ext4.BlockSize)
	for n := range p.FileSystemSize() / ext4.BlockSize {
		if im.Used(n, 1) == 0 {
			continue
		}
		ts.Check(im.Fill(block, n, func(*ext4.Inode) (io.ReaderAt, error) { return bytes.NewReader(content), nil }))
		ts.Check(integritytest.Write(f, p.PayloadOffset, l, k.VolumeKey, block, n*ext4.BlockSize))
		last = n * ext4.BlockSize // the contents come last
	}
	state, err := volume.State{Counter: counter, Job: args[2]}.Encode()
	ts.Check(err)
	ts.Check(integritytest.Write(f, p.PayloadOffset, l, k.VolumeKey, state, p.FileSystemSize()))
	if len(args) == 4 {
		at := map[string]int64{"garbled": l.SectorAt(last), "garbled-journal": integrity.SuperblockSize + 508}[args[3]]
		_, err = f.WriteAt([]byte("garbled"), p.PayloadOffset+at)
		ts.Check(err)
	}
}
