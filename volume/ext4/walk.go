package ext4

import (
	"errors"
	"fmt"
	"path"
)

// maxDepth bounds the nesting of directories.
const maxDepth = 1000

// A Visit is one name that Walk came by.
type Visit struct {
	Dir  string // slash-separated path of the directory, "." for the top
	Name string
	File *File
	// First is the path under which the same file was visited before: this
	// name is a hard link to it. Empty otherwise.
	First string
}

// Path is the slash-separated path from the top.
func (v Visit) Path() string { return path.Join(v.Dir, v.Name) }

// Walk visits every name below the root: first all those of a directory, then
// those of its subdirectories. An empty lost+found at the top is left out. A
// directory that can be reached in two ways is an error. leave is called when
// all names of a directory were visited.
func (fs *FS) Walk(visit func(Visit) error, leave func(dir string) error) error {
	type dir struct {
		path  string
		file  *File
		depth int
	}
	root, err := fs.Inode(rootInode)
	if err != nil {
		return err
	}
	if !root.IsDir() {
		return errors.New("the root inode is no directory")
	}
	seenDirs := map[uint32]bool{rootInode: true}
	seenLinks := map[uint32]string{}
	stack := []dir{{".", root, 0}}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		entries, err := d.file.ReadDir()
		if err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
		for _, e := range entries {
			v := Visit{Dir: d.path, Name: e.Name}
			if v.File, err = fs.Inode(e.Number); err != nil {
				return fmt.Errorf("%s: %w", v.Path(), err)
			}
			if t := dirFileType(v.File.Mode); e.kind != t {
				return fmt.Errorf("%s: the directory says type %d, the inode %d", v.Path(), e.kind, t)
			}
			if v.File.IsDir() {
				if seenDirs[e.Number] {
					return fmt.Errorf("%s: directory loop", v.Path())
				}
				if d.depth >= maxDepth {
					return fmt.Errorf("%.200s…: directories nested deeper than %d", v.Path(), maxDepth)
				}
				seenDirs[e.Number] = true
				if skip, err := emptyLostAndFound(v); skip || err != nil {
					if err != nil {
						return fmt.Errorf("%s: %w", v.Path(), err)
					}
					continue
				}
				stack = append(stack, dir{v.Path(), v.File, d.depth + 1})
			} else if first, ok := seenLinks[e.Number]; ok {
				v.First = first
			} else {
				// A link count of 1 that lies is caught by the claim on blocks.
				if v.File.Links > 1 {
					seenLinks[e.Number] = v.Path()
				}
			}
			if err := visit(v); err != nil {
				return err
			}
		}
		if err := leave(d.path); err != nil {
			return err
		}
	}
	return nil
}

func emptyLostAndFound(v Visit) (bool, error) {
	if v.Dir != "." || v.Name != lostAndFound {
		return false, nil
	}
	claimed := v.File.fs.claimed
	entries, err := v.File.ReadDir()
	v.File.fs.claimed = claimed // it is read again if it is walked
	return len(entries) == 0, err
}
