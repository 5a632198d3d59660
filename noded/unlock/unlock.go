// Package unlock opens a session's volumes on a node and closes them again,
// whatever state it finds.
//
// A volume is a LUKS2 file, but the node never reads its header: an attacker
// who can write the file could swap it. Cipher, key, sector size, offset and
// length come from the signed manifest (volume.Pinned), and for read-only
// volumes so do the dm-verity root hash, salt and geometry. From the file up:
//
//	loop device over the payload's ciphertext   [loop device over the hash tree]
//	[dm-verity of both, read-only volumes]
//	dm-crypt in plain mode    [or dm-integrity and an authenticated dm-crypt]
//	ext4, mounted detached, idmapped to the job's user
//
// The result is a mount that no process can see until package jobview attaches
// it in the job view.
//
// All of it runs in helper processes with a deadline (package helper), because
// every step reads or writes a file on a file server that may be dead.
//
// Device names are cloister-SESSION-INDEX-crypt, -verity, -authenc and
// -integrity. Close works from
// the names alone, so a daemon that was killed at any point can clean up.
// Loop devices have LO_FLAGS_AUTOCLEAR: they go with their last user.
package unlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"cloister/noded/helper"
	"cloister/policy"
	"cloister/secret"
	"cloister/volume"
)

// Volume is one volume to open.
type Volume struct {
	Index    int                 // position in the manifest, part of the device names
	File     *os.File            // opened with the user's rights (package userfile); loop I/O uses those credentials
	Pinned   volume.Pinned       // from the manifest
	Key      secret.Bytes        // the volume key, Pinned.KeySize bytes
	ReadOnly bool                // then Pinned.Verity is demanded
	UID, GID uint32              // who owns what belongs to 0 inside
	Crypt    policy.CryptOptions // from the policy
	Holder   volume.Holder       // what others are told while it is open for writing; nothing without a node

	Job   string       // the sealed job's id; an authenticated volume's state names it
	Known volume.State // the newest state that the manifest's maker saw; an older one is refused

	Create     bool         // File is new: make a file system
	KeyslotKey secret.Bytes // WriteHeader only: opens the header's keyslot for the owner
	Label      string       // WriteHeader only: the header's label
}

// Opened is an open volume.
type Opened struct {
	Mount *os.File // detached, nosuid, nodev
	Names []string // device-mapper names, lowest first
}

// deadlines for work that has none in its context.
const (
	openDeadline  = 60 * time.Second
	closeDeadline = 60 * time.Second // after an opening that failed: nothing is to be stored
	// storeDeadline is for terabytes of memory and a slow file server.
	storeDeadline = 6 * time.Hour
)

var (
	verbOpen  = helper.Register("unlock-open", handleOpen)
	verbClose = helper.Register("unlock-close", handleClose)
)

// openRequest is what the helper gets besides the file and a pipe with keys.
type openRequest struct {
	Session  string        `json:"session"`
	Index    int           `json:"index"`
	Pinned   volume.Pinned `json:"pinned"`
	ReadOnly bool          `json:"readonly"`
	Create   bool          `json:"create"`
	Label    string        `json:"label"`
	UID      uint32        `json:"uid"`
	GID      uint32        `json:"gid"`
	Holder   volume.Holder `json:"holder"`
	Job      string        `json:"job"`
	Known    volume.State  `json:"known"`

	Crypt policy.CryptOptions `json:"crypt"`

	KeySize int `json:"key_size"` // bytes, in the pipe
}

type openReply struct {
	Names []string `json:"names"`
}

// Open opens one volume. Volumes of a session may be opened at the same time.
// After an error nothing of the volume is left mapped, unless the error says
// so; Close of the session cleans in any case. The caller keeps v.File and may
// close it at once.
func Open(ctx context.Context, session string, v Volume) (*Opened, error) {
	o, err := open(ctx, session, v)
	if err != nil {
		return nil, fmt.Errorf("opening volume %d of session %s: %w", v.Index, session, err)
	}
	return o, nil
}

func open(ctx context.Context, session string, v Volume) (*Opened, error) {
	if err := validSession(session); err != nil {
		return nil, err
	}
	if err := v.Pinned.Validate(); err != nil {
		return nil, err
	}
	if v.ReadOnly && v.Pinned.Verity == nil {
		return nil, errors.New("a read-only volume without a root hash is refused")
	}
	if v.ReadOnly && v.Create {
		return nil, errors.New("a volume that is made here cannot be read-only")
	}
	ctx, cancel := withDeadline(ctx, openDeadline)
	defer cancel()
	keys, err := keyPipe(v.Key)
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	userns, err := owner(v.UID, v.GID)
	if err != nil {
		return nil, err
	}
	request := openRequest{
		Session: session, Index: v.Index, Pinned: v.Pinned, ReadOnly: v.ReadOnly, Create: v.Create,
		Job: v.Job, Known: v.Known, Holder: v.Holder, Crypt: v.Crypt,
		UID: v.UID, GID: v.GID, KeySize: v.Key.Len(),
	}
	var reply openReply
	files, err := verbOpen.Run(ctx, nil, request, []*os.File{v.File, keys, userns}, &reply)
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("helper sent %d files", len(files))
		for _, f := range files {
			f.Close()
		}
	}
	if err != nil {
		// The helper undoes its own steps, but not when it was killed.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeDeadline)
		defer cancel()
		_, cerr := closeNames(cleanup, v.names(session))
		return nil, errors.Join(err, cerr)
	}
	return &Opened{Mount: files[0], Names: reply.Names}, nil
}

// owners keeps the user namespace of the last user: a session's volumes have
// one owner, and a process start for each is most of the time that this takes.
var owners struct {
	sync.Mutex
	uid, gid uint32
	ns       *os.File
}

// owner returns a user namespace that maps 0 to uid and gid. It is not the
// caller's to close.
func owner(uid, gid uint32) (*os.File, error) {
	owners.Lock()
	defer owners.Unlock()
	if owners.ns != nil && owners.uid == uid && owners.gid == gid {
		return owners.ns, nil
	}
	ns, err := helper.UserNamespace(uid, gid)
	if err != nil {
		return nil, err
	}
	// The former one is left to the garbage collector: another Open may use it.
	owners.uid, owners.gid, owners.ns = uid, gid, ns
	return ns, nil
}

// keyPipe holds the keys in a pipe's buffer for the helper to read: they are in
// no message that is encoded, logged or copied on the way.
func keyPipe(keys ...secret.Bytes) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for keys: %w", err)
	}
	defer w.Close()
	for _, k := range keys {
		if k.Len() > 1024 { // far below a pipe's 64 KiB, so that writing cannot block
			r.Close()
			return nil, fmt.Errorf("key of %d bytes", k.Len())
		}
		if _, err := w.Write(k.Reveal()); err != nil {
			r.Close()
			return nil, fmt.Errorf("writing keys to a pipe: %w", err)
		}
	}
	return r, nil
}

func withDeadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// Kinds of device, the last part of a name.
const (
	authenc = "authenc" // dm-crypt that checks tags
	crypt   = "crypt"
	tags    = "integrity"
	verity  = "verity"
)

// kinds are in the order in which a volume's mappings must be closed.
var kinds = []string{authenc, crypt, tags, verity}

const namePrefix = "cloister-"

// names are those that the volume's mappings can have.
func (v Volume) names(session string) (all []string) {
	for _, kind := range kinds {
		all = append(all, name(session, v.Index, kind))
	}
	return all
}

func name(session string, index int, kind string) string {
	return namePrefix + session + "-" + strconv.Itoa(index) + "-" + kind
}

// validSession keeps names unambiguous and below DM_NAME_LEN (128 bytes,
// linux/dm-ioctl.h).
func validSession(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("session name of %d bytes", len(s))
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return fmt.Errorf("session name %q: only lower-case letters and digits", s)
		}
	}
	return nil
}
