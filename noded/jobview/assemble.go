package jobview

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/imagecheck"
	"cloister/noded/jobview/detached"
	"cloister/sealed"
)

const (
	// site is where the view is put together: a directory that every Debian
	// system has and that the view replaces anyway.
	site = "/tmp"
	// smallSize limits file systems that hold directories, links and the script, in bytes.
	smallSize = 16 << 20
	// ttyGroup is the group that owns terminals in Debian (base-passwd).
	ttyGroup = 5
)

// made are top-level directories that the view does not take from the host:
// it makes them itself, or, as with /mnt and /media, leaves them empty.
var made = []string{"dev", "lost+found", "media", "mnt", "proc", "run", "tmp"}

// writable are the view's places in memory where a program expects to write.
var writable = []string{"/tmp", "/var/tmp", "/dev/shm"}

// concealed are the host's directories that no job may look into: Cloister's, and
// those in which slurmd may write (ReadWritePaths= of its drop-in) whatever who
// reaches it says.
var concealed = []string{
	"/etc/cloister", "/var/lib/cloister", "/var/lib/private/cloister",
	"/var/lib/slurm", "/var/log/slurm", "/var/spool/slurm", "/var/spool/slurmd",
}

// A builder puts a view together in the order of its methods below.
type builder struct {
	own   *owned
	spec  Spec     // own's
	image *os.File // detached mount of the image, nil without one
	host  *os.File // the host's root directory
	root  *root
	seal  []*os.File // mounts that become read-only at the end
}

func (b *builder) close() {
	for _, m := range b.seal {
		m.Close()
	}
	if b.host != nil {
		b.host.Close()
	}
	if b.root != nil {
		b.root.dir.Close()
	}
}

func (b *builder) assemble(ctx context.Context) error {
	var err error
	b.spec.Hidden = b.spec.hidden()
	if mutant.Removed(mutant.PrivateDirectories) {
		b.spec.Hidden = nil
	}
	if b.host, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if b.root, err = newRoot(site, smallSize); err != nil {
		return err
	}
	for _, step := range []func() error{
		b.hostTree, b.conceal, b.proc, b.devices, b.run, b.temporary, b.directories, b.volumes, b.placeImage, b.script,
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := step(); err != nil {
			return err
		}
	}
	for _, m := range append(b.seal, b.root.dir) {
		if err := detached.Set(m, false, detached.ReadOnly); err != nil {
			return err
		}
	}
	return nil
}

// hostTree clones the host's top-level directories, with all that is mounted
// beneath them. A hidden root is not even looked at: its server may be dead.
func (b *builder) hostTree() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	top := int(b.root.dir.Fd())
	for _, name := range made {
		if name != "lost+found" {
			if err := unix.Mkdirat(top, name, 0o755); err != nil {
				return fmt.Errorf("making /%s: %w", name, err)
			}
		}
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(made, name):
		case e.Type() == os.ModeSymlink:
			target, err := os.Readlink("/" + name)
			if err != nil {
				return err
			}
			if err := unix.Symlinkat(target, top, name); err != nil {
				return fmt.Errorf("making the link /%s: %w", name, err)
			}
		case e.IsDir():
			if err := unix.Mkdirat(top, name, 0o755); err != nil {
				return fmt.Errorf("making /%s: %w", name, err)
			}
			attrs := detached.ReadOnly | detached.NoSuid | detached.NoDev
			if slices.Contains(b.spec.Hidden, "/"+name) {
				if !mutant.Removed(mutant.HiddenRoots) {
					continue
				}
				attrs = detached.NoSuid | detached.NoDev
			}
			if err := b.clone("/"+name, "/"+name, true, attrs); err != nil {
				return err
			}
		}
	}
	return nil
}

// clone shows the host's path at another place of the view, which exists.
func (b *builder) clone(from, to string, recursive bool, attrs int) error {
	fd, err := unix.Openat2(int(b.host.Fd()), from[1:], &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return &os.PathError{Op: "opening", Path: from, Err: err}
	}
	source := os.NewFile(uintptr(fd), from)
	defer source.Close()
	m, err := detached.Clone(source, recursive, attrs)
	if err != nil {
		return err
	}
	defer m.Close()
	target, err := b.root.open(to)
	if err != nil {
		return err
	}
	defer target.Close()
	return detached.Attach(m, target)
}

// empty covers path with an empty file system that ends up read-only.
func (b *builder) empty(path string) error {
	m, err := b.root.cover(path, "tmpfs", []string{"mode=0755", "size=" + strconv.Itoa(smallSize)}, detached.NoSuid|detached.NoDev)
	if err != nil {
		return err
	}
	b.seal = append(b.seal, m)
	return nil
}

func (b *builder) conceal() error {
	hide := slices.Clone(concealed)
	if b.spec.ScriptPath != "" {
		hide = append(hide, b.spec.spool())
	}
	if !mutant.Removed(mutant.HiddenRoots) {
		hide = append(hide, b.spec.Hidden...)
	}
	for _, path := range hide {
		if err := b.empty(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (b *builder) proc() error {
	m, err := b.root.cover("/proc", "proc", []string{"hidepid=invisible"}, detached.NoSuid|detached.NoDev|detached.NoExec)
	if err != nil {
		return err
	}
	return m.Close()
}

// run holds what srun needs, the step key and munge's socket, and no other
// daemon's.
func (b *builder) run() error {
	if err := b.empty("/run"); err != nil {
		return err
	}
	if err := b.stepKey(); err != nil {
		return err
	}
	if err := b.secrets(); err != nil {
		return err
	}
	if _, err := os.Lstat("/run/munge"); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	d, err := b.root.ensure("/run/munge", 0o755, 0, 0)
	if err != nil {
		return err
	}
	d.Close()
	return b.clone("/run/munge", "/run/munge", false, detached.ReadOnly|detached.NoSuid|detached.NoDev|detached.NoExec)
}

// StepKeyPath is where srun finds the step key (CL_STEP_KEY of
// cgo/plugin/proof.h).
const StepKeyPath = "/run/cloister/step-key"

// stepKey is for the job's user alone, in memory, and read-only in the end.
func (b *builder) stepKey() error {
	if b.spec.StepKey.Len() == 0 {
		return nil
	}
	dir, err := b.root.ensure(filepath.Dir(StepKeyPath), 0o755, 0, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := b.write(dir, StepKeyPath, b.spec.StepKey.Reveal(), 0o400); err != nil {
		return fmt.Errorf("step key: %w", err)
	}
	return nil
}

// secrets are for the job's user alone, in memory, and read-only in the end.
func (b *builder) secrets() error {
	if len(b.spec.Secrets) == 0 {
		return nil
	}
	dir, err := b.root.ensure(sealed.SecretPlace, 0o755, 0, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, s := range b.spec.Secrets {
		if err := b.write(dir, sealed.SecretPlace+"/"+s.Name, s.Content.Reveal(), 0o400); err != nil {
			return fmt.Errorf("secret %s: %w", s.Name, err)
		}
	}
	return nil
}

// write makes a file of the job's user in a directory of the view.
func (b *builder) write(dir *os.File, path string, text []byte, mode uint32) error {
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(path), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return &os.PathError{Op: "making in the view", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	err = b.own.read(func() error {
		_, err := f.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	return f.Chown(int(b.spec.UID), int(b.spec.GID))
}

func (b *builder) temporary() error {
	for _, path := range writable {
		if err := b.private(path, 0o1777, 0, 0); err != nil {
			return err
		}
	}
	return nil
}

// private covers path with a writable file system in memory.
func (b *builder) private(path string, mode int64, uid, gid int) error {
	m, err := b.root.cover(path, "tmpfs", []string{
		"mode=0" + strconv.FormatInt(mode, 8), "uid=" + strconv.Itoa(uid), "gid=" + strconv.Itoa(gid),
		"size=" + strconv.FormatInt(b.spec.TmpSize, 10),
	}, detached.NoSuid|detached.NoDev)
	if err != nil {
		return err
	}
	return m.Close()
}

// directories makes $HOME and the working directory, empty both: whoever
// submits a job chooses where, and may have planted files there. Only / is the
// view's own root, in which nobody can plant any.
func (b *builder) directories() error {
	if mutant.Removed(mutant.HiddenRoots) || mutant.Removed(mutant.PrivateDirectories) {
		return nil
	}
	s := b.spec
	uid, gid := int(s.UID), int(s.GID)
	both := []string{s.Home, s.Cwd}
	if within(s.Home, s.Cwd) {
		both = []string{s.Cwd, s.Home} // the outer one first
	}
	for _, path := range both {
		switch {
		case path == "/":
		case path == s.Cwd && path != s.Home && beneath(path, append([]string{s.Home}, writable...)):
			d, err := b.root.ensure(path, 0o700, uid, gid)
			if err != nil {
				return fmt.Errorf("working directory: %w", err)
			}
			d.Close()
		default:
			d, err := b.root.ensure(path, 0o755, 0, 0)
			if err != nil {
				return fmt.Errorf("private directory: %w", err)
			}
			if !b.own.covered(path) {
				err = b.root.exact(d, path)
			}
			d.Close()
			if err != nil {
				return &sealed.Refusal{Cause: "the working directory " + err.Error(), Next: "seal the script again and submit it from your home directory"}
			}
			if err := b.private(path, 0o700, uid, gid); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) volumes() error {
	for _, v := range b.spec.Volumes {
		target, err := b.root.ensure(v.Target, 0o755, int(b.spec.UID), int(b.spec.GID))
		if err != nil {
			return fmt.Errorf("mount point %s: %w", v.Target, err)
		}
		err = b.root.exact(target, v.Target)
		if err == nil {
			err = detached.Attach(v.Source, target)
		}
		target.Close()
		if err != nil {
			return fmt.Errorf("mount point %s: %w", v.Target, err)
		}
	}
	return nil
}

// imageInVolume clones the one file out of a volume that is in its place.
func (b *builder) imageInVolume() error {
	dir, err := b.root.open(b.spec.ImageVolume)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), b.spec.Image, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: imagecheck.Resolve})
	if err != nil {
		return &os.PathError{Op: "opening in the volume", Path: b.spec.Image, Err: err}
	}
	file := os.NewFile(uintptr(fd), b.spec.Image)
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s in the volume is not a regular file", b.spec.Image), err)
	}
	b.image, err = detached.Clone(file, false, detached.ReadOnly|detached.NoSuid|detached.NoDev)
	return err
}

// placeImage binds the verified copy, or the file in the volume, where the job
// expects its image.
func (b *builder) placeImage() error {
	if b.spec.ImageVolume != "" {
		if err := b.imageInVolume(); err != nil {
			return fmt.Errorf("image: %w", err)
		}
		defer b.image.Close()
	}
	if b.image == nil {
		return nil
	}
	path := b.spec.ImagePath
	dir, err := b.root.ensure(filepath.Dir(path), 0o700, int(b.spec.UID), int(b.spec.GID))
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(path), unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o400)
	switch {
	case err == nil:
		unix.Close(fd)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("image %s: %w", path, errNotHere)
	case !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("image %s: %w", path, err)
	}
	target, err := b.root.open(path)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer target.Close()
	if err := b.root.exact(target, path); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return detached.Attach(b.image, target)
}

// script writes the verified script where Slurm's argv[0] points: into a file
// system that becomes read-only, so that its owner, the user, cannot change it.
func (b *builder) script() error {
	s := b.spec
	if s.ScriptPath == "" {
		return nil
	}
	dir, err := b.root.ensure(filepath.Dir(s.ScriptPath), 0o755, 0, 0)
	if err != nil {
		return fmt.Errorf("script: %w", err)
	}
	defer dir.Close()
	if err := b.write(dir, s.ScriptPath, s.Script, 0o500); err != nil {
		return fmt.Errorf("script: %w", err)
	}
	return nil
}
