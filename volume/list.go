package volume

import (
	"fmt"
	"io/fs"
	"time"

	"cloister/secret"
	"cloister/volume/ext4"
)

// Item is one name in a volume. Path and Target are as they stand there and may
// hold characters that a terminal obeys: print them with %q.
type Item struct {
	Path     string
	Mode     fs.FileMode // type and permission bits
	Size     int64       // bytes
	ModTime  time.Time
	Target   string // of a symbolic link
	HardLink string // an earlier Item's path, if this is the same file
}

// List calls f for everything in the volume, opened with the pinned
// parameters, in the order that Extract takes.
func List(path string, p Pinned, volumeKey secret.Bytes, f func(Item) error) error {
	if err := list(path, p, volumeKey, f); err != nil {
		return printableError{fmt.Errorf("listing the volume %s: %w", path, err)}
	}
	return nil
}

func list(path string, p Pinned, volumeKey secret.Bytes, f func(Item) error) error {
	v, err := openPayload(path, p, volumeKey)
	if err != nil {
		return err
	}
	defer v.Close()
	src, err := v.fileSystem()
	if err != nil {
		return err
	}
	return src.Walk(func(e ext4.Visit) error {
		i := Item{Path: e.Path(), Mode: fs.FileMode(e.File.Perm()), Size: e.File.Size, ModTime: modTime(e.File), HardLink: e.First}
		switch {
		case e.File.IsDir():
			i.Mode |= fs.ModeDir
		case e.File.IsSymlink():
			i.Mode |= fs.ModeSymlink
			if i.HardLink == "" {
				if i.Target, err = e.File.Readlink(); err != nil {
					return err
				}
			}
		case !e.File.IsRegular():
			i.Mode |= fs.ModeIrregular
		}
		return f(i)
	}, func(string) error { return nil })
}
