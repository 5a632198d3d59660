package devicemapper

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/mutant"
	"cloister/secret"
)

// A Crypt is one dm-crypt mapping in plain mode.
type Crypt struct {
	Name       string       // the mapping's name
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
	Name          string // the mapping's name
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

// unit is the device-mapper's unit of lengths, in bytes.
const unit = 512

// OpenCrypt maps c and returns the path of its device. The key is read in
// place; the one copy of it in this process is wiped (the kernel's table holds
// it until the device is closed, and the kernel wipes the message that brought
// it there).
func OpenCrypt(c Crypt) (string, error) {
	switch {
	case strings.Count(c.Cipher, "-") < 2 || strings.ContainsAny(c.Cipher, " \t\n\x00"):
		return "", fmt.Errorf("mapping %s: cipher %q is not NAME-MODE-IV", c.Name, c.Cipher)
	case c.Key.Len() == 0:
		return "", fmt.Errorf("mapping %s: no key", c.Name)
	case c.Size == 0:
		return "", fmt.Errorf("mapping %s: no payload size", c.Name)
	}
	below, err := number(c.Device)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", c.Name, err)
	}
	// Documentation/admin-guide/device-mapper/dm-crypt.rst:
	// cipher key iv_offset device offset [#options option…]
	var options []string
	if c.SectorSize != unit {
		options = append(options, "sector_size:"+strconv.FormatUint(uint64(c.SectorSize), 10))
	}
	for _, o := range []struct {
		set  bool
		name string
	}{{c.Discards, "allow_discards"}, {c.NoReadWorkqueue, "no_read_workqueue"}, {c.NoWriteWorkqueue, "no_write_workqueue"}} {
		if o.set {
			options = append(options, o.name)
		}
	}
	rest := fmt.Sprintf(" 0 %s %d", below, c.Offset)
	if len(options) > 0 {
		rest += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return openCrypt(mapping{name: c.Name, sectors: c.Size, readOnly: c.ReadOnly}, c.Cipher, c.Key, rest)
}

// openCrypt makes m a dm-crypt mapping: cipher, key, and the rest of the
// parameters, which begins with a blank.
func openCrypt(m mapping, cipher string, key secret.Bytes, rest string) (string, error) {
	p := secret.Alloc(len(cipher) + 1 + hex.EncodedLen(key.Len()) + len(rest))
	defer p.Wipe()
	b := append(p.Reveal()[:0], cipher...)
	b = append(b, ' ')
	b = hex.AppendEncode(b, key.Reveal())
	m.uuid, m.target, m.parameters = "CRYPT-PLAIN-"+m.name, "crypt", append(b, rest...)
	return activate(m)
}

// OpenVerity maps v, read-only, and returns the path of its device. A wrong
// root hash is found by the kernel at the first read, not here.
func OpenVerity(v Verity) (string, error) {
	switch {
	case len(v.RootHash) == 0:
		return "", fmt.Errorf("mapping %s: no root hash", v.Name)
	case v.DataBlocks == 0:
		return "", fmt.Errorf("mapping %s: no data size", v.Name)
	case len(v.Salt) > 256: // DM_VERITY_MAX_SALT_SIZE of linux/dm-verity
		return "", fmt.Errorf("mapping %s: salt of %d bytes", v.Name, len(v.Salt))
	case v.Algorithm == "" || strings.ContainsAny(v.Algorithm, " \t\n\x00"):
		return "", fmt.Errorf("mapping %s: hash %q", v.Name, v.Algorithm)
	case v.HashBlockSize == 0 || v.HashOffset%uint64(v.HashBlockSize) != 0 || v.DataBlockSize == 0 || v.DataBlockSize%unit != 0:
		return "", fmt.Errorf("mapping %s: a tree at %d, blocks of %d and %d bytes", v.Name, v.HashOffset, v.DataBlockSize, v.HashBlockSize)
	}
	data, err := number(v.Data)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", v.Name, err)
	}
	hash, err := number(v.Hash)
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", v.Name, err)
	}
	salt := "-"
	if len(v.Salt) > 0 {
		salt = fmt.Sprintf("%x", v.Salt)
	}
	// Documentation/admin-guide/device-mapper/verity.rst: version dev hash_dev
	// data_block_size hash_block_size num_data_blocks hash_start_block algorithm
	// digest salt
	parameters := fmt.Sprintf("1 %s %s %d %d %d %d %s %x %s", data, hash, v.DataBlockSize, v.HashBlockSize, v.DataBlocks,
		v.HashOffset/uint64(v.HashBlockSize), v.Algorithm, v.RootHash, salt)
	return activate(mapping{name: v.Name, uuid: "CRYPT-VERITY-" + v.Name, target: "verity",
		sectors: v.DataBlocks * uint64(v.DataBlockSize/unit), parameters: []byte(parameters), readOnly: true})
}

// number is a block device's number as a table names it.
func number(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("%s is no block device", path)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// A mapping is one device of one target.
type mapping struct {
	name, uuid, target string
	sectors            uint64
	parameters         []byte
	readOnly           bool
	stated             []string // what the kernel must say of the table before it comes into use
}

// activate makes a mapping. After an error there is none.
func activate(m mapping) (string, error) {
	path, err := m.create()
	if err != nil {
		return "", fmt.Errorf("mapping %s: %w", m.name, err)
	}
	if err := m.start(); err != nil {
		return "", errors.Join(fmt.Errorf("mapping %s: %w", m.name, err), remove(m.name))
	}
	return path, nil
}

func (m mapping) create() (string, error) {
	reply, err := ask(request{number: dmDevCreate, name: m.name, uuid: m.uuid})
	if err != nil {
		return "", err
	}
	return reply.path(), nil
}

func (m mapping) start() error {
	flags := uint32(dmSecureData)
	if m.readOnly {
		flags |= dmReadOnly
	}
	// struct dm_target_spec, then the parameters, ended by a zero, aligned.
	table := secret.Alloc((dmTarget + len(m.parameters) + 8) &^ 7)
	defer table.Wipe()
	b := table.Reveal()
	binary.NativeEndian.PutUint64(b[8:], m.sectors)
	copy(b[24:dmTarget-1], m.target)
	copy(b[dmTarget:], m.parameters)
	if _, err := ask(request{number: dmTableLoad, name: m.name, flags: flags, data: b}); err != nil {
		return fmt.Errorf("loading its table (the kernel's log has the cause): %w", err)
	}
	if err := m.checkStated(); err != nil {
		return err
	}
	// The table comes into use, and udev hears of the device.
	flags = 0
	if m.readOnly {
		flags = dmReadOnly
	}
	if _, err := ask(request{number: dmDevSuspend, name: m.name, flags: flags}); err != nil {
		return fmt.Errorf("putting its table in use: %w", err)
	}
	return nil
}

// checkStated asks the kernel for the table that it will use: some targets take
// more from the device than from their parameters.
func (m mapping) checkStated() error {
	if len(m.stated) == 0 {
		return nil
	}
	reply, err := command(dmTableStatus, m.name, dmStatusTable|dmInactiveTable, make([]byte, 4<<10))
	if err != nil {
		return fmt.Errorf("asking for its table: %w", err)
	}
	_, line, err := reply.status()
	if err != nil {
		return err
	}
	words := strings.Fields(line)
	for _, s := range m.stated {
		if !slices.Contains(words, s) {
			return fmt.Errorf("the kernel would not use %s: somebody altered the device's beginning", s)
		}
	}
	return nil
}

// private are the flags of libdevmapper's that reach udev's rules in an event's
// cookie (libdevmapper.h): no links, nothing of other packages' rules, no probe
// of what is inside. There is no semaphore behind the cookie, because nobody
// waits: the kernel makes the device's node itself. With 09-cloister.rules in
// place, udev need not start a program to understand them.
func private() uint32 {
	const (
		shift = 16

		disableDM        = 1 << 0
		disableSubsystem = 1 << 1
		disableDisk      = 1 << 2
		disableOther     = 1 << 3
		primarySource    = 1 << 6
	)
	if mutant.Removed(mutant.PrivateActivation) {
		return primarySource << shift
	}
	return (disableDM | disableSubsystem | disableDisk | disableOther | primarySource) << shift
}
