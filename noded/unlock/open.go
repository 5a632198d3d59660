package unlock

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/noded/devicemapper"
	"cloister/noded/jobview/detached"
	"cloister/secret"
	"cloister/volume"
	"cloister/volume/ext4"
)

// What follows runs in the helper process.

// unit is device-mapper's unit of offsets and lengths, in bytes.
const unit = 512

// opening is one volume on its way; undo holds the device names made so far.
type opening struct {
	openRequest
	file, userns *os.File
	key          secret.Bytes
	names        []string
}

func handleOpen(body []byte, files []*os.File) (any, []*os.File, error) {
	var o opening
	if err := json.Unmarshal(body, &o.openRequest); err != nil {
		return nil, nil, fmt.Errorf("decoding the request: %w", err)
	}
	if len(files) != 3 {
		return nil, nil, errors.New("three files were expected")
	}
	o.file, o.userns = files[0], files[2]
	o.key = secret.Alloc(o.KeySize)
	defer o.key.Wipe()
	if err := readKeys(files[1], o.key); err != nil {
		return nil, nil, err
	}
	mount, err := o.open()
	if err != nil {
		for i := len(o.names) - 1; i >= 0; i-- {
			if cerr := devicemapper.ForceClose(o.names[i]); cerr != nil && !errors.Is(cerr, devicemapper.ErrNotActive) {
				err = errors.Join(err, cerr)
			}
		}
		return nil, nil, err
	}
	return openReply{o.names}, []*os.File{mount}, nil
}

func (o *opening) open() (*os.File, error) {
	p := o.parameters()
	if err := o.lock(); err != nil {
		return nil, err
	}
	length := p.area
	if p.verity != nil {
		// One device for both: the tree lies behind the payload.
		length = p.verity.HashOffset + p.verity.HashSize - p.offset
	}
	payload, err := attachLoop(o.file, p.offset, length, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer payload.Close() // the mapping holds the device from then on
	device := payload.Name()
	if p.verity != nil && !mutant.Removed(mutant.Verity) {
		if device, err = o.openVerity(device, p); err != nil {
			return nil, err
		}
	}
	if p.authenticated {
		device, err = o.openAuthenticated(payload, p)
	} else {
		device, err = o.openCrypt(device, p)
	}
	if err != nil {
		return nil, err
	}
	if !o.Create {
		if err := o.enter(device, p); err != nil {
			return nil, err
		}
		return o.mount(device)
	}
	f, err := o.makeFileSystem(device, p)
	if err != nil {
		return nil, err
	}
	// The kernel mounts what is written, while it goes to the file server: all of
	// it must be there before the job can rely on anything being stored.
	stored := make(chan error, 1)
	go func() { stored <- errors.Join(f.Sync(), f.Close()) }()
	var m *os.File
	if err = o.enter(device, p); err == nil {
		m, err = o.mount(device)
	}
	if serr := <-stored; serr != nil {
		if m != nil {
			m.Close()
		}
		return nil, errors.Join(err, fmt.Errorf("making a file system: %w", serr))
	}
	return m, err
}

const lockWait = 2 * time.Second

// lock keeps two nodes from writing to one volume by accident. The lock belongs
// to the open file description, which the loop device holds: it goes with the
// device, and the file server drops it when the node dies. The device of a
// session that just ended may take a moment to go, so an answer is final only
// after lockWait.
func (o *opening) lock() error {
	if o.ReadOnly {
		return nil
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := unix.FcntlFlock(o.file.Fd(), unix.F_OFD_SETLK, &whole)
	for began := time.Now(); errors.Is(err, unix.EAGAIN) && time.Since(began) < lockWait; {
		time.Sleep(lockWait / 20)
		err = unix.FcntlFlock(o.file.Fd(), unix.F_OFD_SETLK, &whole)
	}
	switch {
	case err == nil:
		o.note()
		return nil
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
		return o.inUse()
	case o.Create:
		return nil // made with O_EXCL a moment ago: a file system without locks is no danger
	}
	return fmt.Errorf("locking the volume against a second writer: %w", err)
}

func (o *opening) openVerity(data string, p parameters) (string, error) {
	v := p.verity
	root, err := hex.DecodeString(v.RootHash)
	if err != nil {
		return "", fmt.Errorf("root hash: %w", err)
	}
	salt, err := hex.DecodeString(v.Salt)
	if err != nil {
		return "", fmt.Errorf("salt: %w", err)
	}
	if p.size%v.DataBlockSize != 0 {
		return "", fmt.Errorf("payload of %d bytes is no whole number of %d-byte blocks", p.size, v.DataBlockSize)
	}
	n := name(o.Session, o.Index, verity)
	device, err := devicemapper.OpenVerity(devicemapper.Verity{
		Name: n, Data: data, Hash: data, HashOffset: uint64(v.HashOffset - p.offset),
		Algorithm: v.Algorithm, RootHash: root, Salt: salt,
		DataBlockSize: uint32(v.DataBlockSize), HashBlockSize: uint32(v.HashBlockSize),
		DataBlocks: uint64(p.size) / uint64(v.DataBlockSize),
	})
	if err != nil {
		return "", err
	}
	o.names = append(o.names, n)
	return device, nil
}

func (o *opening) openCrypt(device string, p parameters) (string, error) {
	if p.plaintext {
		return device, nil
	}
	n, choice := name(o.Session, o.Index, crypt), o.choose()
	mapped, err := devicemapper.OpenCrypt(devicemapper.Crypt{
		Name: n, Device: device, Cipher: p.cipher, Key: o.key,
		Offset: 0, Size: uint64(p.size) / unit, SectorSize: uint32(p.sectorSize), ReadOnly: o.ReadOnly,
		NoReadWorkqueue: choice.noReadWorkqueue, NoWriteWorkqueue: choice.noWriteWorkqueue, Discards: choice.discard,
	})
	if err != nil {
		return "", err
	}
	o.names = append(o.names, n)
	return mapped, nil
}

// mount mounts ext4 detached. A read-only volume whose journal needs recovery
// is refused by the kernel, as its device is read-only: such a file system was
// not left clean, and noload would show it half-written.
func (o *opening) mount(device string) (*os.File, error) {
	// errors=: a file system must not choose to panic the node.
	options := []string{"source=" + device, "errors=remount-ro"}
	attrs := detached.NoSuid | detached.NoDev | detached.NoAtime
	if mutant.Removed(mutant.VolumeAttrs) {
		attrs = detached.NoAtime
	}
	if o.ReadOnly {
		options = append(options, "ro")
		attrs |= detached.ReadOnly
	} else {
		// Zeroing inode tables in the background would fill a sparse file.
		options = append(options, "noinit_itable")
	}
	if o.choose().discard {
		options = append(options, "discard")
	}
	m, err := detached.New("ext4", options, attrs)
	switch {
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EILSEQ):
		return nil, fmt.Errorf("%w: the file is not the one that the manifest pins, or was altered", err)
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("%w: wrong key, or no ext4 file system in the volume", err)
	case err != nil:
		return nil, err
	}
	if o.Create {
		// The owner sees an empty directory, not e2fsck's.
		if err := unix.Unlinkat(int(m.Fd()), "lost+found", unix.AT_REMOVEDIR); err != nil {
			m.Close()
			return nil, fmt.Errorf("removing lost+found: %w", err)
		}
	}
	if mutant.Removed(mutant.OwnerMap) {
		return m, nil
	}
	if err := detached.Owner(m, o.userns); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// makeFileSystem makes an empty file system on device, which it returns for the
// caller to sync and close. What need not be written stays a hole in the file:
// the checksums tell the kernel which parts are in use. mkfs.ext4 would take half
// a second of an emulated guest, and read first, which an authenticated volume
// does not have: nothing can be read from it that was not written before.
//
// Of an authenticated volume's journal all is written, because the kernel reads
// one block behind what it is to replay.
func (o *opening) makeFileSystem(device string, p parameters) (*os.File, error) {
	options := ext4.Options{Size: p.size, Seconds: time.Now().Unix(), Journal: true}
	if p.authenticated {
		options.Size, options.FullJournal = o.Pinned.FileSystemSize(), true
	}
	rand.Read(options.UUID[:])
	image, err := ext4.NewImage(&ext4.Inode{Mode: unix.S_IFDIR | 0o755, Seconds: options.Seconds, Path: "."}, options)
	if err != nil {
		return nil, fmt.Errorf("making a file system: %w", err)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("making a file system: %w", err)
	}
	if _, err := image.WriteUsed(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("making a file system: %w", err)
	}
	return f, nil
}

// parameters are how the payload is opened.
type parameters struct {
	cipher     string
	sectorSize int64
	offset     int64 // bytes
	size       int64 // bytes
	area       int64 // bytes of the file, with the tags if authenticated
	verity     *volume.Verity
	// authenticated: by dm-integrity and dm-crypt; cipher says nothing then.
	authenticated bool
	plaintext     bool // only a mutants build can set it
}

// pinned are the manifest's parameters: nothing else decides in a release build.
func (o *opening) pinned() parameters {
	p := o.Pinned
	return parameters{
		cipher: p.Cipher, sectorSize: p.SectorSize,
		offset: p.PayloadOffset, size: p.PayloadSize, area: p.AreaSize(), verity: p.Verity,
		authenticated: p.Integrity != nil,
	}
}
