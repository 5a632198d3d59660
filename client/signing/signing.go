// Package signing finds the key that signs the owner's sealed jobs: an Ed25519
// key of Cloister's own, an SSH key file that is there already, or a key in an
// SSH agent.
//
// Which one it is, and whose, is said in signer.json in Cloister's directory.
// The key found must have the fingerprint that is written there.
package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cloister/client/advice"
	"cloister/client/atomicfile"
	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/secret"

	"golang.org/x/crypto/ssh"
)

const (
	configName = "signer.json"

	// KeyName is the name, in Cloister's directory, of the key that Create
	// makes: an OpenSSH private key without passphrase, mode 0600.
	KeyName = "signing_key"

	format  = 1
	maxFile = 64 << 10 // bytes; an OpenSSH key has at most some 14 KiB
)

// The places that a key can be in.
const (
	inFile  = "file"
	inAgent = "agent"
)

// An Asker asks the user for a passphrase, without echo.
type Asker func(prompt string) (secret.Bytes, error)

// A Config says which key signs, and for whom.
type Config struct {
	Format    int    `json:"format"`
	User      string `json:"user"` // on the cluster
	Place     string `json:"place"`
	Path      string `json:"path"`       // of the key file, relative to Cloister's directory if it lies there; "" in an agent
	PublicKey string `json:"public_key"` // as in an authorized_keys file

	Certificate string `json:"certificate,omitempty"` // file of a certificate over the key
	Authority   string `json:"authority,omitempty"`   // who signed it, as in an authorized_keys file

	home string
}

// Line is the line of an allowed_signers file that lets this key sign jobs, or
// its certificates.
func (c *Config) Line() string {
	if c.Certificate != "" {
		return fmt.Sprintf("%s cert-authority,namespaces=%q %s", c.User, sealed.Namespace, c.Authority)
	}
	return fmt.Sprintf("%s namespaces=%q %s", c.User, sealed.Namespace, c.PublicKey)
}

// Key is the public key.
func (c *Config) Key() (ssh.PublicKey, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(c.PublicKey))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, fmt.Errorf("reading %s: public_key is no public key", configName)
	}
	if _, ok := k.(*ssh.Certificate); ok {
		return nil, fmt.Errorf("reading %s: public_key is a certificate", configName)
	}
	return k, signers.CheckKey(k)
}

// ErrExists says that there is a signer already.
var ErrExists = errors.New("there is a signing key already")

// Create makes an Ed25519 key in home, Cloister's directory, and the
// configuration that uses it.
func Create(home, user string) (*Config, error) {
	path, err := filepath.Abs(filepath.Join(home, KeyName))
	if err != nil {
		return nil, err
	}
	if err := mustBeNew(home); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrExists, path)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	defer clear(private)
	block, err := ssh.MarshalPrivateKey(private, "cloister")
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	defer clear(block.Bytes)
	text := pem.EncodeToMemory(block)
	defer clear(text)
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	// A relative path lets the directory be moved and restored from a backup.
	c := newConfig(user, inFile, KeyName, key)
	c.home = home
	if err := sealed.CheckName(user); err != nil {
		return nil, fmt.Errorf("user: %w", err)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("making Cloister's directory: %w", err)
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return nil, err
	}
	if err := c.write(home); err != nil {
		os.Remove(path)
		return nil, err
	}
	return c, nil
}

// UseFile makes a configuration that uses an SSH private key file. It asks for
// the passphrase only if the public key cannot be read without. With the file of
// a certificate over the key, unless that is "", jobs are signed with it.
func UseFile(home, user, path, certificate string, ask Asker) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s, err := readKey(path, ask)
	if err != nil {
		return nil, err
	}
	return use(home, newConfig(user, inFile, path, s.PublicKey()), s.PublicKey(), certificate)
}

func use(home string, c *Config, key ssh.PublicKey, certificate string) (*Config, error) {
	if err := signers.CheckKey(key); err != nil {
		return nil, advice.Refuse("use an Ed25519 key: ssh-keygen -t ed25519, or cloister init without --key", "%w", err)
	}
	if err := sealed.CheckName(c.User); err != nil {
		return nil, fmt.Errorf("user: %w", err)
	}
	if certificate != "" {
		if err := c.useCertificate(certificate, key); err != nil {
			return nil, err
		}
	}
	if err := mustBeNew(home); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("making Cloister's directory: %w", err)
	}
	return c, c.write(home)
}

func newConfig(user, place, path string, key ssh.PublicKey) *Config {
	return &Config{Format: format, User: user, Place: place, Path: path, PublicKey: authorizedKey(key)}
}

func authorizedKey(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}

func mustBeNew(home string) error {
	path := filepath.Join(home, configName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrExists, path)
	}
	return nil
}

func (c *Config) write(home string) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(home, configName), append(b, '\n'), 0o600)
}

// Load reads the configuration in home.
func Load(home string) (*Config, error) {
	path := filepath.Join(home, configName)
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, advice.Refuse("run cloister init", "there is no signing key in %s", home)
	}
	if err != nil {
		return nil, err
	}
	c := new(Config)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if c.Format != format || c.Place != inFile && c.Place != inAgent {
		return nil, fmt.Errorf("reading %s: it is of another version of cloister", path)
	}
	if err := sealed.CheckName(c.User); err != nil {
		return nil, fmt.Errorf("reading %s: user: %w", path, err)
	}
	if _, err := c.Key(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if (c.Certificate == "") != (c.Authority == "") {
		return nil, fmt.Errorf("reading %s: a certificate without its authority", path)
	}
	c.home = home
	return c, nil
}

// File is where the key file is, "" for a key in an agent.
func (c *Config) File() string {
	if c.Path == "" || filepath.IsAbs(c.Path) {
		return c.Path
	}
	return filepath.Join(c.home, c.Path)
}

// Open returns the signer. Close it when done.
func (c *Config) Open(ask Asker) (Signer, error) {
	want, err := c.Key()
	if err != nil {
		return Signer{}, err
	}
	var s Signer
	if c.Place == inAgent {
		s, err = openAgent(want)
	} else {
		s, err = c.openFile(want, ask)
	}
	if err != nil {
		return Signer{}, err
	}
	if s.Signer, err = c.certify(s.Signer); err != nil {
		s.Close()
		return Signer{}, err
	}
	return s, nil
}

func (c *Config) openFile(want ssh.PublicKey, ask Asker) (Signer, error) {
	path := c.File()
	s, err := readKey(path, ask)
	if err != nil {
		return Signer{}, err
	}
	if !bytes.Equal(s.PublicKey().Marshal(), want.Marshal()) {
		return Signer{}, advice.Refuse("put the old key back, or start anew with another CLOISTER_HOME", "the key in %s is not the one that cloister init registered", path)
	}
	return Signer{Signer: s}, nil
}

// A Signer signs; Close ends a connection to an agent.
type Signer struct {
	ssh.Signer
	conn io.Closer
}

// Close ends the connection to the agent, if there is one.
func (s Signer) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
}
