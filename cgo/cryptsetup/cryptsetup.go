// Package cryptsetup maps block devices through the kernel's device-mapper by
// way of libcryptsetup: dm-crypt in plain mode and dm-verity without a
// superblock, both with parameters that the caller states in full.
//
// It is for package noded/unlock. It refuses to read any header: there is no
// way here to load a LUKS or verity superblock from a device, so what an
// attacker writes into one cannot change a cipher, an offset or a key.
//
// Every device is activated privately (CRYPT_ACTIVATE_PRIVATE), which tells
// udev not to probe what is inside and not to make links to it.
//
// libcryptsetup keeps global state, so calls are made one at a time.
package cryptsetup

/*
#cgo pkg-config: libcryptsetup
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libcryptsetup.h>

// The last error message of one call. libcryptsetup's messages name devices
// and causes; keys appear in none of them (debug output, which is off, would
// be the only place to come near).
struct report { char text[256]; };

static void keep_error(int level, const char *msg, void *usrptr)
{
	struct report *r = usrptr;
	if (level == CRYPT_LOG_ERROR && r && !r->text[0])
		snprintf(r->text, sizeof(r->text), "%s", msg);
}

static int open_crypt(const char *device, const char *name, const char *cipher,
	const char *mode, const char *key, size_t key_size, uint64_t offset,
	uint64_t size, uint32_t sector_size, uint32_t flags, struct report *report)
{
	struct crypt_device *cd = NULL;
	// hash NULL: the key is used as it is. skip 0: the first sector of the
	// payload has IV 0, as in a LUKS2 segment with iv_tweak 0.
	struct crypt_params_plain params = {
		.offset = offset, .size = size, .sector_size = sector_size,
	};
	int r = crypt_init(&cd, device);
	if (r < 0)
		return r;
	crypt_set_log_callback(cd, keep_error, report);
	r = crypt_format(cd, CRYPT_PLAIN, cipher, mode, NULL, NULL, key_size, &params);
	if (r >= 0)
		r = crypt_activate_by_volume_key(cd, name, key, key_size, flags);
	crypt_free(cd);
	return r;
}

static int open_verity(const char *data, const char *hash, const char *name,
	const char *algorithm, const char *root, size_t root_size,
	const char *salt, uint32_t salt_size, uint32_t data_block,
	uint32_t hash_block, uint64_t data_blocks, uint64_t hash_offset,
	uint32_t flags, struct report *report)
{
	struct crypt_device *cd = NULL;
	struct crypt_params_verity params = {
		.hash_name = algorithm, .data_device = data, .salt = salt,
		.salt_size = salt_size, .hash_type = 1,
		.data_block_size = data_block, .hash_block_size = hash_block,
		.data_size = data_blocks, .hash_area_offset = hash_offset,
		.flags = CRYPT_VERITY_NO_HEADER,
	};
	int r = crypt_init_data_device(&cd, hash, data);
	if (r < 0)
		return r;
	crypt_set_log_callback(cd, keep_error, report);
	r = crypt_format(cd, CRYPT_VERITY, NULL, NULL, NULL, NULL, 0, &params);
	if (r >= 0)
		r = crypt_activate_by_volume_key(cd, name, root, root_size, flags);
	crypt_free(cd);
	return r;
}

static int close_device(const char *name, struct report *report)
{
	int r;
	crypt_set_log_callback(NULL, keep_error, report);
	r = crypt_deactivate_by_name(NULL, name, 0);
	crypt_set_log_callback(NULL, NULL, NULL);
	return r;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"cloister/mutant"
	"cloister/secret"
)

// A Crypt is one dm-crypt mapping in plain mode.
type Crypt struct {
	Name       string       // device name under /dev/mapper
	Device     string       // path of the block device below
	Cipher     string       // as dm-crypt spells it: "aes-xts-plain64"
	Key        secret.Bytes // used as it is, without a hash: 64 bytes for AES-256-XTS
	Offset     uint64       // start of the payload, in 512-byte units
	Size       uint64       // length of the payload, in 512-byte units; 0 is refused
	SectorSize uint32       // encryption sector in bytes, 512 or 4096; the IV counts 512-byte units in both
	ReadOnly   bool
	Discards   bool // pass discards down: shows which blocks are used

	// The thread that reads or writes does the encryption, not kcryptd's workers.
	NoReadWorkqueue, NoWriteWorkqueue bool
}

// A Verity is one dm-verity mapping whose parameters come from the caller and
// not from a superblock.
type Verity struct {
	Name          string // device name under /dev/mapper
	Data          string // path of the block device that holds the data
	Hash          string // path of the block device that holds the hash tree
	HashOffset    uint64 // start of the tree on Hash, in bytes
	Algorithm     string // "sha256"
	RootHash      []byte
	Salt          []byte
	DataBlockSize uint32 // bytes
	HashBlockSize uint32 // bytes
	DataBlocks    uint64 // number of data blocks; 0 is refused, else the tree itself would become data
}

// Status is what a device name stands for.
type Status int

// The states of a device name.
const (
	Inactive   Status = iota
	Unfinished        // has a name, but no table in use: who made it was killed on the way
	Active            // mapped, nothing has it open
	Busy              // mapped, and mounted, opened or used by another mapping
)

var (
	// ErrBusy is wrapped by Close when something still uses the device.
	ErrBusy = errors.New("device is in use")
	// ErrNotActive is wrapped by Close when there is no such device.
	ErrNotActive = errors.New("no such device")
)

// serial keeps calls apart: libcryptsetup and libdevmapper have global state.
var serial sync.Mutex

// OpenCrypt activates c. The key is read in place; no copy of it stays in this
// process (the kernel's table holds it until the device is closed).
func OpenCrypt(c Crypt) error {
	cipher, mode, ok := strings.Cut(c.Cipher, "-")
	switch {
	case !ok:
		return fmt.Errorf("mapping %s: cipher %q is not NAME-MODE-IV", c.Name, c.Cipher)
	case c.Key.Len() == 0:
		return fmt.Errorf("mapping %s: no key", c.Name)
	case c.Size == 0:
		return fmt.Errorf("mapping %s: no payload size", c.Name)
	}
	flags := private()
	if c.ReadOnly {
		flags |= C.CRYPT_ACTIVATE_READONLY
	}
	if c.Discards {
		flags |= C.CRYPT_ACTIVATE_ALLOW_DISCARDS
	}
	if c.NoReadWorkqueue {
		flags |= C.CRYPT_ACTIVATE_NO_READ_WORKQUEUE
	}
	if c.NoWriteWorkqueue {
		flags |= C.CRYPT_ACTIVATE_NO_WRITE_WORKQUEUE
	}
	s := newStrings()
	defer s.free()
	device, name, cc, cm := s.add(c.Device), s.add(c.Name), s.add(cipher), s.add(mode)
	key := c.Key.Reveal()
	return call("mapping "+c.Name, func(r *C.struct_report) C.int {
		return C.open_crypt(device, name, cc, cm, (*C.char)(unsafe.Pointer(&key[0])), C.size_t(len(key)),
			C.uint64_t(c.Offset), C.uint64_t(c.Size), C.uint32_t(c.SectorSize), flags, r)
	})
}

// OpenVerity activates v, read-only. A wrong root hash is found by the kernel
// at the first read, not here.
func OpenVerity(v Verity) error {
	switch {
	case len(v.RootHash) == 0:
		return fmt.Errorf("mapping %s: no root hash", v.Name)
	case v.DataBlocks == 0:
		return fmt.Errorf("mapping %s: no data size", v.Name)
	case len(v.Salt) > math.MaxUint16:
		return fmt.Errorf("mapping %s: salt of %d bytes", v.Name, len(v.Salt))
	}
	s := newStrings()
	defer s.free()
	data, hash, name, alg := s.add(v.Data), s.add(v.Hash), s.add(v.Name), s.add(v.Algorithm)
	// The salt sits in a C struct during the call, so it cannot be Go memory.
	salt := s.bytes(v.Salt)
	return call("mapping "+v.Name, func(r *C.struct_report) C.int {
		return C.open_verity(data, hash, name, alg, (*C.char)(unsafe.Pointer(&v.RootHash[0])), C.size_t(len(v.RootHash)),
			salt, C.uint32_t(len(v.Salt)), C.uint32_t(v.DataBlockSize), C.uint32_t(v.HashBlockSize),
			C.uint64_t(v.DataBlocks), C.uint64_t(v.HashOffset),
			C.CRYPT_ACTIVATE_READONLY|private(), r)
	})
}

// private tells udev to leave a mapping alone.
func private() C.uint32_t {
	if mutant.Removed(mutant.PrivateActivation) {
		return 0
	}
	return C.CRYPT_ACTIVATE_PRIVATE
}

// Close removes the mapping, finished or not. The error wraps ErrBusy or
// ErrNotActive where that is the cause.
func Close(name string) error {
	switch state, err := State(name); {
	case err != nil:
		return err
	case state == Unfinished: // libcryptsetup refuses it
		return remove(name)
	}
	s := newStrings()
	defer s.free()
	n := s.add(name)
	return call("closing "+name, func(r *C.struct_report) C.int { return C.close_device(n, r) })
}

// call runs f alone and makes an error of what it returns.
func call(what string, f func(*C.struct_report) C.int) error {
	serial.Lock()
	defer serial.Unlock()
	report := (*C.struct_report)(C.calloc(1, C.sizeof_struct_report))
	defer C.free(unsafe.Pointer(report))
	r := f(report)
	if r >= 0 {
		return nil
	}
	errno := syscall.Errno(-r)
	cause := error(errno)
	switch errno {
	case syscall.EBUSY:
		cause = ErrBusy
	case syscall.ENODEV:
		cause = ErrNotActive
	}
	if text := strings.TrimSpace(C.GoString(&report.text[0])); text != "" {
		return fmt.Errorf("%s: %w: %s", what, cause, text)
	}
	return fmt.Errorf("%s: %w", what, cause)
}

// cStrings are C copies of public values, freed together.
type cStrings struct{ all []unsafe.Pointer }

func newStrings() *cStrings { return &cStrings{} }

func (s *cStrings) add(v string) *C.char {
	p := C.CString(v)
	s.all = append(s.all, unsafe.Pointer(p))
	return p
}

func (s *cStrings) bytes(v []byte) *C.char {
	p := C.CBytes(v)
	s.all = append(s.all, p)
	return (*C.char)(p)
}

func (s *cStrings) free() {
	for _, p := range s.all {
		C.free(p)
	}
}
