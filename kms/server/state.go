package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/google/renameio/v2"

	"cloister/secret"
)

const (
	configFile  = "config.json"
	stateFormat = 1
	maxConfig   = 64 << 10
)

// siteConfig is what Init fixes for the life of the state directory.
type siteConfig struct {
	Format    int      `json:"format"`
	Addresses []string `json:"addresses"` // host names and IP addresses of the certificate
	// KeyCheck is nothing, encrypted under the state key. Without it the
	// state is not encrypted.
	KeyCheck []byte `json:"key_check,omitempty"`
}

// State is a state directory and the key that it is encrypted under. An empty
// key leaves it as it is, for tests and demonstrations.
type State struct {
	Dir string
	Key secret.Bytes
}

// Init and AddUser do what State's methods do, without a key.
func Init(dir string, addresses []string) (caPEM []byte, err error) {
	return State{Dir: dir}.Init(addresses)
}

// AddUser is State.AddUser without a key, of the default role.
func AddUser(dir, name string) (secret.Bytes, error) {
	return State{Dir: dir}.AddUser(name, DefaultRole)
}

// Encrypted reports whether the state in dir needs a key.
func Encrypted(dir string) (bool, error) {
	c, err := loadConfig(dir)
	return err == nil && len(c.KeyCheck) > 0, err
}

// open checks the key against the directory.
func (s State) open() (*siteConfig, *stateKey, error) {
	c, err := loadConfig(s.Dir)
	if err != nil {
		return nil, nil, err
	}
	key, err := newStateKey(s.Key)
	if err != nil {
		return nil, nil, err
	}
	if (key == nil) != (len(c.KeyCheck) == 0) {
		return nil, nil, fmt.Errorf("%s: %w", s.Dir, ErrStateKey)
	}
	if key == nil {
		return c, nil, nil
	}
	if _, err := key.open(configFile, c.KeyCheck); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.Dir, ErrStateKey)
	}
	return c, key, nil
}

func (s State) users() (userDir, error) {
	_, key, err := s.open()
	return userDir{s.Dir, key}, err
}

var (
	// ErrInitialised: Init never overwrites a CA that site files pin.
	ErrInitialised = errors.New("there is a KMS in it already")
	// ErrNotInitialised: the directory holds no KMS.
	ErrNotInitialised = errors.New("there is no KMS in it")
)

// hostName follows RFC 1123, 2.1.
var hostName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// Init makes a state directory: a CA of its own, the database and the
// configuration. addresses are the host names and IP addresses by which
// clients reach the server. It returns the CA's certificate in PEM.
func (s State) Init(addresses []string) (caPEM []byte, err error) {
	dir := s.Dir
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("making a KMS in %s: %w", dir, err) }
	if len(addresses) == 0 {
		return fail(errors.New("no address given"))
	}
	for _, a := range addresses {
		if net.ParseIP(a) == nil && (len(a) > 253 || !hostName.MatchString(a)) {
			return fail(fmt.Errorf("%q is neither a host name nor an IP address (no scheme, no port)", a))
		}
	}
	key, err := newStateKey(s.Key)
	if err != nil {
		return fail(err)
	}
	c := siteConfig{Format: stateFormat, Addresses: addresses}
	if key != nil {
		c.KeyCheck = key.seal(configFile, nil)
	}
	if err := s.makeDirs(); err != nil {
		return fail(err)
	}
	certPEM, keyPEM, err := newCA(addresses[0])
	if err != nil {
		return fail(err)
	}
	defer clear(keyPEM)
	cfg, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, caKeyFile, key.seal(caKeyFile, keyPEM), 0o600); err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, caCertFile, certPEM, 0o644); err != nil {
		return fail(err)
	}
	if err := s.makeStore(key); err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, configFile, append(cfg, '\n'), 0o600); err != nil {
		return fail(err)
	}
	return certPEM, nil
}

// makeDirs makes the directories of a state, if there is no KMS in it.
func (s State) makeDirs() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	// The CA's key comes before the configuration, which marks a complete
	// directory; so either of the two means that something is there.
	for _, f := range []string{configFile, caKeyFile} {
		if _, err := os.Lstat(filepath.Join(s.Dir, f)); !errors.Is(err, fs.ErrNotExist) {
			return ErrInitialised
		}
	}
	for _, d := range []string{usersDir, passwordsDir, rolesDir} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o700); err != nil {
			return err
		}
		if err := chownLike(s.Dir, d); err != nil {
			return err
		}
	}
	return nil
}

// makeStore makes the empty database.
func (s State) makeStore(key *stateKey) error {
	st, err := openStore(s.Dir, key)
	if err != nil {
		return err
	}
	return errors.Join(st.close(), chownLike(s.Dir, databaseFile))
}

func loadConfig(dir string) (*siteConfig, error) {
	path := filepath.Join(dir, configFile)
	b, err := readLimited(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotInitialised)
	}
	if err != nil {
		return nil, err
	}
	var c siteConfig
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if c.Format != stateFormat || len(c.Addresses) == 0 {
		return nil, fmt.Errorf("reading %s: format %d with %d addresses, this program knows format %d", path, c.Format, len(c.Addresses), stateFormat)
	}
	return &c, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", path, limit)
	}
	return b, nil
}

// writeOwned writes a file of the state directory at once and durably, and
// gives it to the directory's owner: the administrator runs `user add` as
// root, the server as a user of its own. os.Root keeps root from following a
// link that a captured server left there.
func writeOwned(dir, name string, b []byte, mode os.FileMode) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := renameio.NewPendingFile(name, renameio.WithRoot(root), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(b); err != nil {
		return err
	}
	uid, gid, err := owner(root)
	if err != nil {
		return err
	}
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

func chownLike(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	uid, gid, err := owner(root)
	if err != nil {
		return err
	}
	return root.Lchown(name, uid, gid)
}

// owner is the state directory's, or -1 (no change) for somebody who is not
// root and could give nothing away.
func owner(root *os.Root) (uid, gid int, err error) {
	st, err := root.Stat(".")
	if err != nil {
		return 0, 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return -1, -1, nil
	}
	return int(sys.Uid), int(sys.Gid), nil
}
