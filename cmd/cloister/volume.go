package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/client/keystore"
	"cloister/secret"
	"cloister/volume"
	"cloister/volume/luks2"

	"github.com/spf13/cobra"
)

func newVolume(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "Make, open, check and change encrypted volumes",
		Long: `A volume is a LUKS2 file with an ext4 file system in it: cryptsetup opens it, too.
Its keys and the parameters that it is opened with are kept in CLOISTER_HOME.

Exit status, besides that of cloister --help: 4 wrong passphrase or key, 5 the
volume is in use, 6 an authenticated volume was altered or is older than the
newest state that was seen.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newVolumeCreate(a), newVolumeExtract(a), newVolumeLs(a), newVolumeInfo(a), newVolumeCheck(a),
		newVolumeGrow(a), newVolumePasswd(a), newVolumeKeyslots(a), newVolumeProtect(a))
	return c
}

// opening says where a command takes a volume's keys from: the key store unless
// the user says otherwise.
type opening struct {
	uuid       string
	keyFile    string
	passphrase bool
}

func (o *opening) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.uuid, "uuid", "", "the volume's `UUID`, if its header cannot be read")
	c.Flags().StringVar(&o.keyFile, "key-file", "", "if its keys are not kept here: the `FILE` with the key of a keyslot")
	c.Flags().BoolVar(&o.passphrase, "passphrase", false, "if its keys are not kept here: ask for a passphrase")
	c.MarkFlagsMutuallyExclusive("uuid", "key-file", "passphrase")
}

// opened is a volume with its keys and with what it is to be opened with.
type opened struct {
	keystore.Volume
	kept bool // in the key store; else Pinned is what the header claims
	slot int  // the keyslot that was opened, if not kept
}

// open finds a volume's keys.
func (a *app) open(ctx context.Context, path string, o opening) (opened, error) {
	home, err := homeDir()
	if err != nil {
		return opened{}, err
	}
	store := keystore.In(home).Asking(a.askStore)
	if o.uuid == "" {
		h, err := volumeInfo(path, "if the header was damaged, give the volume's UUID with --uuid; cloister volume check --repair mends it")
		if err != nil {
			return opened{}, err
		}
		o.uuid = h.UUID
	} else if err := luks2.ValidUUID(o.uuid); err != nil {
		return opened{}, advice.Misuse("cloister volume info says it of a whole file", "--uuid %.40q: %w", o.uuid, err)
	}
	if o.keyFile != "" || o.passphrase {
		_, err := store.Describe(o.uuid)
		if err == nil {
			return opened{}, advice.Misuse("leave out --key-file and --passphrase", "%s: the volume's keys are kept here", path)
		}
		if !errors.Is(err, keystore.ErrUnknown) {
			return opened{}, fmt.Errorf("%s: %w", path, err)
		}
		return a.unlock(ctx, path, o)
	}
	v, err := store.Get(o.uuid)
	if err != nil {
		return opened{}, fmt.Errorf("%s: %w", path, err)
	}
	return opened{Volume: v, kept: true}, nil
}

// anyState adds the flag for current's last argument.
func anyState(c *cobra.Command) *bool {
	return c.Flags().Bool("any-state", false, "read the volume also if a newer state was seen, or if no node has closed it")
}

// current checks the state of an authenticated volume against the newest that
// was seen here, and notes it. A volume made here has none.
func (a *app) current(path string, v opened, any bool) error {
	if v.Pinned.Integrity == nil {
		return nil
	}
	s, err := volume.Current(path, v.Pinned, v.Keys.VolumeKey, v.Seen, any)
	if err != nil {
		return err
	}
	switch {
	case s.Unclosed():
		a.note("No node has closed this volume since job %s opened it (state %d): what is in it may be half written.\n", s.Job, s.Counter)
	default:
		a.note("Closed after job %s (state %d).\n", s.Job, s.Counter)
	}
	if !v.kept || s.After(v.Seen) != nil {
		return nil
	}
	home, err := homeDir()
	if err != nil {
		return err
	}
	return keystore.In(home).See(v.Pinned.UUID, s)
}

// unlock opens a volume that the key store does not know.
func (a *app) unlock(ctx context.Context, path string, o opening) (opened, error) {
	var key secret.Bytes
	var err error
	if o.keyFile != "" {
		key, err = readKeyFile(o.keyFile)
	} else {
		key, err = a.ask("Passphrase of "+path+": ", "give the volume's key with --key-file, or run it in a terminal")
	}
	if err != nil {
		return opened{}, err
	}
	defer key.Wipe()
	pinned, volumeKey, slot, err := volume.Unlock(ctx, path, key)
	if err != nil {
		return opened{}, err
	}
	err = pinned.Validate()
	if err == nil && volumeKey.Len() != pinned.KeySize() {
		err = fmt.Errorf("a volume key of %d bits is refused: only %d is accepted", 8*volumeKey.Len(), 8*pinned.KeySize())
	}
	if err != nil {
		volumeKey.Wipe()
		return opened{}, advice.Refuse("open it with cryptsetup (Linux, as root)", "%s: its header says: %w", path, err)
	}
	a.note("Opened with what the file's own header says: nothing shows whether the file was changed.\n")
	return opened{Volume: keystore.Volume{Pinned: pinned, Keys: volume.Keys{VolumeKey: volumeKey}}, slot: slot}, nil
}

// volumeInfo reads a header; next is what to do if it cannot be read.
func volumeInfo(path, next string) (*luks2.Header, error) {
	h, err := volume.Info(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return nil, advice.Refuse(next, "%w", err)
	}
	return h, err
}

// maxKeyFile is cryptsetup's default limit for key files, in bytes.
const maxKeyFile = 8 << 20

// readKeyFile reads the key of a keyslot: the whole file, as cryptsetup does.
func readKeyFile(path string) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the key file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the key file: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > maxKeyFile {
		return secret.Bytes{}, advice.Refuse("give a file that holds the key and nothing else", "%s is no key file", path)
	}
	key := secret.Alloc(int(st.Size()))
	if _, err := f.ReadAt(key.Reveal(), 0); err != nil {
		key.Wipe()
		return secret.Bytes{}, fmt.Errorf("reading the key file: %w", err)
	}
	return key, nil
}

// readNewKey reads a key for a new keyslot, which must be 256 random bits: its
// derivation does nothing against guessing.
func readNewKey(path string) (secret.Bytes, error) {
	key, err := readKeyFile(path)
	if err == nil && key.Len() != luks2.KeyslotKeySize {
		key.Wipe()
		err = advice.Refuse(fmt.Sprintf("make one: head -c %d /dev/urandom >FILE; for a passphrase, use cloister volume passwd", luks2.KeyslotKeySize),
			"%s has %d bytes: a key is %d random bytes", path, key.Len(), luks2.KeyslotKeySize)
	}
	return key, err
}

const passphraseWarning = "Whoever has a copy of the volume can try passphrases on it for ever, with as many machines as they like, and nobody notices.\n" +
	"Choose at random, for example six words by dice. Without a passphrase, only the random key in CLOISTER_HOME opens it.\n"

// askNew asks for a volume's new passphrase, twice.
func (a *app) askNew() (secret.Bytes, error) {
	a.note("%s", passphraseWarning)
	return a.askTwice("New passphrase: ", "run it in a terminal; for a key in a file, see cloister volume keyslots add --help")
}

// minKDFMemory is the second recommended choice of RFC 9106, 64 MiB, in bytes.
const minKDFMemory = 64 << 20

// kdfFlag adds --kdf-memory and returns what it says, once it is parsed.
func kdfFlag(c *cobra.Command) func() (luks2.KDF, error) {
	memory := c.Flags().String("kdf-memory", "1G", "memory that each try of a passphrase takes: 64M to 2G (`SIZE`)")
	return func() (luks2.KDF, error) {
		k := luks2.Passphrase
		n, err := parseSize("kdf-memory", *memory)
		if err != nil {
			return k, err
		}
		if k.Memory = n >> 10; n < minKDFMemory || k.Memory > luks2.MaxArgonMemory {
			return k, advice.Misuse("for example: --kdf-memory 512M", "--kdf-memory: %s is not from 64M to 2G", *memory)
		}
		return k, nil
	}
}

// parseSize reads a flag's size in bytes; empty is 0.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := directives.ParseSize(s)
	if err != nil {
		return 0, advice.Misuse("for example: --"+flag+" 1G", "--%s: %w", flag, err)
	}
	return n, nil
}

// printable quotes a name that a terminal would obey, or that is empty.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}
