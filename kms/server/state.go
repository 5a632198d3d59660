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
func Init(dir string, addresses []string) (caPEM []byte, err error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("making a KMS in %s: %w", dir, err) }
	if len(addresses) == 0 {
		return fail(errors.New("no address given"))
	}
	for _, a := range addresses {
		if net.ParseIP(a) == nil && (len(a) > 253 || !hostName.MatchString(a)) {
			return fail(fmt.Errorf("%q is neither a host name nor an IP address (no scheme, no port)", a))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	// The CA's key comes before the configuration, which marks a complete
	// directory; so either of the two means that something is there.
	for _, f := range []string{configFile, caKeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			return fail(ErrInitialised)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, usersDir), 0o700); err != nil {
		return fail(err)
	}
	certPEM, keyPEM, err := newCA(addresses[0])
	if err != nil {
		return fail(err)
	}
	defer clear(keyPEM)
	cfg, err := json.MarshalIndent(siteConfig{stateFormat, addresses}, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := chownLike(dir, usersDir); err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, caKeyFile, keyPEM, 0o600); err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, caCertFile, certPEM, 0o644); err != nil {
		return fail(err)
	}
	st, err := openStore(dir)
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(st.close(), chownLike(dir, databaseFile)); err != nil {
		return fail(err)
	}
	if err := writeOwned(dir, configFile, append(cfg, '\n'), 0o600); err != nil {
		return fail(err)
	}
	return certPEM, nil
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
