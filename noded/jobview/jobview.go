// Package jobview builds the mount and IPC namespaces that a secure job lives
// in. It starts no process: the result is two descriptors for the Slurm plugin
// to enter.
//
// The view is a new root, a small tmpfs, into which the host's top-level
// directories are cloned read-only, nosuid and nodev. (An overlay or a remount
// of the host's own root would leave no place to make mount points such as
// /data.) Over that lie:
//
//   - the shared file systems, hidden by empty file systems in memory, in which
//     only the job's working directory and $HOME exist, as private directories.
//     The top-level directory of a $HOME or working directory elsewhere is hidden
//     like them;
//   - /tmp, /var/tmp, /dev/shm, $HOME, the working directory unless that is /:
//     private, in memory, bounded, writable;
//   - /run with munge's socket, the session's step key and the job's secret files
//     and nothing else, so no D-Bus and no systemd;
//   - /dev with the harmless devices, a devpts and a POSIX queue file system of
//     its own, and /dev/fuse, with which apptainer mounts images;
//   - /proc mounted anew, writable (user namespaces need that), hidepid=invisible;
//   - no /etc/cloister, /var/lib/cloister, nor slurmd's own directories but for
//     the verified script at the path where Slurm runs it;
//   - the session's volumes and verified files.
//
// Nothing propagates in or out: mounts that the host makes later do not appear.
//
// It refuses mount points and working directories that would change what a
// program of the host means (/etc, /usr …), mount points that nest, repeat, or lie
// above what the job needs, and it follows no symbolic link to a mount point.
package jobview

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/jobview/detached"
	"cloister/secret"
)

// Spec says what the job sees. All paths are absolute and clean.
type Spec struct {
	UID, GID uint32
	Home     string   // from the node's user database
	Cwd      string   // the job's working directory, which whoever submits it chooses
	Hidden   []string // roots of shared file systems, from the policy
	Volumes  []Mount  // the session's volumes
	Devices  []string // below /dev, besides the harmless ones and /dev/fuse
	TmpSize  int64    // bytes, limit of each private file system in memory

	ScriptPath string // argv[0] of the batch step, in slurmd's spool directory; empty: no script
	Script     []byte // the verified inner script, put there

	StepKey secret.Bytes // with which srun in the view proves its steps; empty: no steps

	Secrets []Secret // files in sealed.SecretPlace

	ImagePath   string // where the job expects its image; empty: no image
	Image       string // the verified copy, a file that only this daemon can write; with ImageVolume its path from there
	ImageVolume string // Target of the one in Volumes, for reading, that holds the image; or empty
}

// An owned spec has copies of what the job alone may read: the caller wipes its
// own, while a thread that hangs may still come back to them.
type owned struct {
	Spec
	host  string     // hostNamespace
	mu    sync.Mutex // held while they are read
	wiped bool
}

func own(s Spec) *owned {
	s.Script = bytes.Clone(s.Script)
	s.StepKey = secret.New(bytes.Clone(s.StepKey.Reveal()))
	s.Secrets = slices.Clone(s.Secrets)
	for i, f := range s.Secrets {
		s.Secrets[i].Content = secret.New(bytes.Clone(f.Content.Reveal()))
	}
	return &owned{Spec: s, host: hostNamespace}
}

// read calls f, which reads the copies, if they are there.
func (o *owned) read(f func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wiped {
		return context.Canceled
	}
	return f()
}

func (o *owned) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wipeLocked()
}

// wipeUnread leaves to the thread what it is reading.
func (o *owned) wipeUnread() {
	if o.mu.TryLock() {
		defer o.mu.Unlock()
		o.wipeLocked()
	}
}

func (o *owned) wipeLocked() {
	o.wiped = true
	clear(o.Script)
	o.StepKey.Wipe()
	for _, f := range o.Secrets {
		f.Content.Wipe()
	}
}

// A Secret is a file that the job's user alone may read.
type Secret struct {
	Name    string
	Content secret.Bytes
}

// Mount is a detached mount and its place in the view. Build attaches it; the
// descriptor stays the caller's to close.
type Mount struct {
	Source *os.File
	Target string
}

// View holds a job's namespaces. They live as long as these descriptors and
// the processes inside.
type View struct {
	Mount *os.File
	IPC   *os.File
}

// Close drops the descriptors.
func (v *View) Close() {
	v.Mount.Close()
	v.IPC.Close()
}

// Build makes the view. The host tree is the one that process 1 sees, not
// what the daemon's own unit leaves of it. If ctx ends first the error says
// so; the thread that works on it may then hang on a dead file server, holding
// nothing but a namespace that nobody enters, and puts nothing more into it.
func Build(ctx context.Context, spec Spec) (*View, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("building the job view: %w", err)
	}
	var image *os.File
	if spec.Image != "" && spec.ImageVolume == "" {
		// Before the thread leaves this daemon's mount namespace, where the copy is.
		var err error
		if image, err = cloneFile(spec.Image); err != nil {
			return nil, fmt.Errorf("building the job view: %w", err)
		}
	}
	return own(spec).build(ctx, image)
}

func (o *owned) build(ctx context.Context, image *os.File) (*View, error) {
	type result struct {
		view *View
		err  error
	}
	done := make(chan result, 1)
	onOwnThread(func() {
		v, err := build(ctx, o, image)
		o.wipe()
		done <- result{v, err}
	})
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("building the job view: %w", r.err)
		}
		return r.view, nil
	case <-ctx.Done():
		o.wipeUnread()
		go func() {
			if r := <-done; r.view != nil {
				r.view.Close()
			}
		}()
		return nil, fmt.Errorf("building the job view: %w", ctx.Err())
	}
}

// onOwnThread runs f on a thread that ends afterwards: no other goroutine ever
// runs in the namespaces that f enters. The main thread is never used, because
// it cannot end and /proc/PID shows its namespaces as the process's.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			started := make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(started)
				f()
			}()
			<-started // until then this goroutine keeps the main thread to itself
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
}

// build runs on a thread of its own.
func build(ctx context.Context, o *owned, image *os.File) (*View, error) {
	if image != nil {
		defer image.Close()
	}
	if err := enterFresh(o.host); err != nil {
		return nil, err
	}
	b := builder{own: o, spec: o.Spec, image: image}
	defer b.close()
	if err := b.assemble(ctx); err != nil {
		return nil, err
	}
	if err := b.root.pivot(); err != nil {
		return nil, err
	}
	mount, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("opening the mount namespace: %w", err)
	}
	ipc, err := os.Open("/proc/thread-self/ns/ipc")
	if err != nil {
		mount.Close()
		return nil, fmt.Errorf("opening the IPC namespace: %w", err)
	}
	return &View{mount, ipc}, nil
}

// cloneFile makes a read-only mount of one file, which the job's user may read
// whatever the daemon's umask was when it made it.
func cloneFile(path string) (*os.File, error) {
	if err := os.Chmod(path, 0o444); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return detached.Clone(f, false, detached.ReadOnly|detached.NoSuid|detached.NoDev)
}

// hostNamespace is a variable for tests in containers, whose process 1 may be
// out of reach. Opening it needs CAP_SYS_PTRACE.
var hostNamespace = "/proc/1/ns/mnt"

// enterFresh moves the thread into private copies of process 1's mounts and
// into an empty IPC namespace.
func enterFresh(hostNamespace string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unsharing the working directory: %w", err)
	}
	host, err := os.Open(hostNamespace)
	if err != nil {
		return fmt.Errorf("opening the host's mount namespace: %w", err)
	}
	defer host.Close()
	if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering the host's mount namespace: %w", err)
	}
	namespaces, propagation := unix.CLONE_NEWNS|unix.CLONE_NEWIPC, uintptr(unix.MS_PRIVATE)
	if mutant.Removed(mutant.PrivateIPC) {
		namespaces = unix.CLONE_NEWNS
	}
	if mutant.Removed(mutant.PrivateMounts) {
		propagation = unix.MS_SLAVE
	}
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("making mount and IPC namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|propagation, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	unix.Umask(0) // of this thread, since CLONE_FS: modes below are meant as they stand
	return nil
}

// errNotHere explains a directory that the view cannot have.
var errNotHere = errors.New("this directory does not exist on the node and cannot be made there; choose one directly below /")
