package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cloister/client/advice"
	"cloister/client/keystore"
	"cloister/sealed"
	"cloister/volume"
	"cloister/volume/ext4"

	"github.com/spf13/cobra"
)

func newVolumeCreate(a *app) *cobra.Command {
	o := volume.CreateOptions{Rand: rand.Reader}
	var free, total, keyFile string
	var passphrase bool
	c := &cobra.Command{
		Use:   "create V.luks --from DIR",
		Short: "Turn a directory or a tar stream into an encrypted volume",
		Long: `create writes a LUKS2 file that holds the contents of a directory, and keeps its
keys in CLOISTER_HOME. The volume is for reading: a job notices any change to it.
With --free or --size it is for writing, with that much room, and no job can
notice that an old state of it was put back.

Kept are names, permissions, modification times, symbolic and hard links, holes,
and extended attributes in the namespace user; not owners, setuid bits and ACLs.
Nothing is written anywhere in plaintext. With --from - a tar stream is read from
standard input, of at most 4 TiB; a file that comes twice in it is refused.

Free space is left out of the file, which so takes only the space that is used,
and shows how full the volume is. --hide-free-space fills it with noise.

The volume's key is random. --passphrase makes a passphrase open it as well:
whoever has a copy of the volume can then guess at it, for ever.`,
		Example: `  cloister volume create patients.luks --from patients/
  cloister volume create work.luks --from work/ --free 20G
  ssh archive tar -cf - --xattrs --format=pax scans | cloister volume create scans.luks --from -
  cloister volume create home.luks --from home/ --passphrase`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&o.From, "from", "", "the `DIR`ectory whose contents go into the volume, or - for a tar stream")
	c.Flags().StringVar(&o.Label, "label", "", "a label, at most 47 bytes, which everybody can read")
	c.Flags().StringVar(&free, "free", "", "make a volume for writing with this much room (`SIZE`, for example 1G)")
	c.Flags().StringVar(&total, "size", "", "make a volume for writing of this `SIZE` in all, for example 20G")
	c.Flags().BoolVar(&o.HideFreeSpace, "hide-free-space", false, "fill free space with noise, so that the file does not show how full it is")
	c.Flags().StringVar(&keyFile, "key-file", "", "open the keyslot with the 32 random bytes in this `FILE`, not with a new key")
	c.Flags().BoolVar(&passphrase, "passphrase", false, "ask for a passphrase that opens the volume, too")
	c.Flags().BoolVar(&o.Force, "force", false, "replace an existing file")
	kdf := kdfFlag(c)
	_ = c.MarkFlagRequired("from")
	c.MarkFlagsMutuallyExclusive("free", "size")
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		o.Path = args[0]
		if err := checkLabel(o.Label); err != nil {
			return err
		}
		if o.Free, err = parseSize("free", free); err != nil {
			return err
		}
		if o.Size, err = parseSize("size", total); err != nil {
			return err
		}
		o.Writable = free != "" || total != ""
		if o.KDF, err = kdf(); err != nil {
			return err
		}
		if keyFile != "" {
			if o.KeyslotKey, err = readNewKey(keyFile); err != nil {
				return err
			}
			defer o.KeyslotKey.Wipe()
		}
		if passphrase {
			if o.Passphrase, err = a.askNew(); err != nil {
				return err
			}
			defer o.Passphrase.Wipe()
		}
		if o.From == "-" {
			o.Tar = interruptible(cmd.Context(), cmd.InOrStdin())
		}
		return a.volumeCreate(cmd.Context(), o)
	}
	return c
}

// checkLabel refuses what no header can hold before hours of work, not after.
func checkLabel(label string) error {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if len(label) > sealed.MaxLabel || !utf8.ValidString(label) || strings.ContainsFunc(label, unprintable) {
		return advice.Misuse("for example: --label patients", "--label: want at most %d bytes of printable UTF-8", sealed.MaxLabel)
	}
	return nil
}

// liesIn reports whether a file would lie inside a directory. What it cannot
// find out, the making of the volume says.
func liesIn(path, dir string) bool {
	want, err := os.Stat(dir)
	if err != nil {
		return false
	}
	at, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false
	}
	if at, err = filepath.Abs(at); err != nil {
		return false
	}
	for {
		if st, err := os.Stat(at); err == nil && os.SameFile(st, want) {
			return true
		}
		up := filepath.Dir(at)
		if up == at {
			return false
		}
		at = up
	}
}

// interruptible reads from r until ctx ends, also while r has nothing to give.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
	return pr
}

func (a *app) volumeCreate(ctx context.Context, o volume.CreateOptions) error {
	if o.Tar == nil && liesIn(o.Path, o.From) {
		return advice.Refuse("name a place for the volume outside of that directory", "%s would lie inside %s, the directory that it is made from", o.Path, o.From)
	}
	pinned, err := a.keepAndMake(filepath.Base(o.Path), o.Label, "encrypting", &o, func() (volume.Pinned, volume.Keys, error) {
		return volume.Create(ctx, o)
	})
	switch {
	case errors.Is(err, volume.ErrExists):
		return advice.Refuse("choose another name, or replace it with --force", "%w", err)
	case errors.Is(err, ext4.ErrTooSmall):
		return advice.Refuse("give a larger --size, or none: the volume sizes itself", "%w", err)
	case err != nil:
		return err
	}
	a.printf("%s %s %s\n", o.Path, size(pinned.End()), pinned.UUID)
	return nil
}

// isGone reports whether it is certain that the volume of that UUID is not at
// path, in the directory that was dir: there is none, or another one. What failed
// may have failed after the volume had its name, because a server or a disk went
// away. Then nothing can be seen there, or what the disk was mounted on, and
// without its keys the volume would be lost when it is back.
func isGone(path, uuid string, dir fs.FileInfo) bool {
	if now, err := os.Stat(filepath.Dir(path)); err != nil || !os.SameFile(dir, now) {
		return false
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	h, err := volume.Info(path)
	return err == nil && h.UUID != uuid
}

// keepAndMake runs doMake, which makes a volume with the options in o, such that
// its keys are in the store before the volume's file has its name, and leave
// it again if that certainly came to nothing.
func (a *app) keepAndMake(name, label, what string, o *volume.CreateOptions, doMake func() (volume.Pinned, volume.Keys, error)) (volume.Pinned, error) {
	home, err := homeDir()
	if err != nil {
		return volume.Pinned{}, err
	}
	store := keystore.In(home)
	if err := store.Prepare(); err != nil {
		return volume.Pinned{}, err
	}
	kept := ""
	var dir fs.FileInfo
	o.Keep = func(p volume.Pinned, k volume.Keys) (err error) {
		if dir, err = os.Stat(filepath.Dir(o.Path)); err != nil {
			return err
		}
		if err := store.Put(keystore.Volume{Name: name, Label: label, Created: time.Now(), Pinned: p, Keys: k}); err != nil {
			return err
		}
		kept = p.UUID
		return nil
	}
	p := newProgress(a.stderr, what)
	o.Progress = p.step
	pinned, keys, err := doMake()
	p.clear()
	switch {
	case err == nil || kept == "":
	case isGone(o.Path, kept, dir):
		err = errors.Join(err, store.Remove(kept))
	default:
		a.note("%s may be the new volume %s all the same: its keys stay in %s.\n", o.Path, kept, store.Path(kept))
	}
	keys.Wipe()
	return pinned, err
}
