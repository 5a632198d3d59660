package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cloister/mutant"
	"cloister/volume"
)

// The classes of node that a manifest can ask for.
const (
	ClassDedicated = "dedicated"
	ClassOnDemand  = "on-demand"
)

// The modes of a volume.
const (
	ReadOnly  = "ro"
	ReadWrite = "rw"
)

// A Manifest is the signed and encrypted description of a job. Its JSON form is
// one line with every field below, in this order, none left out; Validate says
// what each may hold.
type Manifest struct {
	Format int    `json:"format"` // Format
	Job    string `json:"job"`    // 128 random bits, 32 lower-case hexadecimal digits

	Signer string `json:"signer"` // fingerprint of the key that signs the file: "SHA256:…"
	User   string `json:"user"`   // Slurm user who may submit it

	Cluster string `json:"cluster"`
	Class   string `json:"class"` // ClassDedicated or ClassOnDemand

	Created time.Time `json:"created"` // UTC, whole seconds
	Expires time.Time `json:"expires"` // UTC, whole seconds

	Arguments   []string          `json:"arguments"`   // of the script, without its own name
	Environment map[string]string `json:"environment"` // set over what Slurm sets

	Stdout string `json:"stdout"` // absolute path in the job view, see CheckOutput
	Stderr string `json:"stderr"`

	Volumes []Volume `json:"volumes"`
	Image   *Image   `json:"image"` // or null

	// Runs is left out of a job that runs once.
	Runs *Runs `json:"runs,omitempty"`

	Tokens []string `json:"tokens"` // single-use KMS tokens for the job key, one for each of Runs.All
	Spare  string   `json:"spare"`  // one more for the whole job, for a lost answer

	Secrets []byte `json:"secrets"` // see SealSecrets

	// Files are the names under which the job finds Secrets.Files, in their order;
	// the one field that is left out when it is empty.
	Files []string `json:"files,omitempty"`
}

// A Volume is one volume that the job opens.
type Volume struct {
	Path   string        `json:"path"`   // of the file; relative to the job's working directory, or absolute; with Create a pattern, see ForRun
	Mount  string        `json:"mount"`  // in the job view, see CheckMount
	Mode   string        `json:"mode"`   // ReadOnly or ReadWrite
	Create bool          `json:"create"` // the node makes it; ReadWrite only
	Size   int64         `json:"size"`   // of the file made, in bytes; 0 unless Create
	Label  string        `json:"label"`  // for people; a pattern as Path
	Pinned volume.Pinned `json:"pinned"` // how it is opened, whatever its header says
	// State is the newest that the client saw an authenticated volume in, if any:
	// the node refuses an older one.
	State volume.State `json:"state,omitzero"`
}

// An Image is the SIF file that the job runs: a file by itself, pinned by its
// digest, or a file in a read-only volume of the job (ImageVolume), pinned by
// that volume's root hash.
type Image struct {
	Path   string `json:"path"`   // as Volume.Path; or below a volume's mount point
	SHA256 string `json:"sha256"` // of the whole file, 64 lower-case hexadecimal digits; "" in a volume
	Size   int64  `json:"size"`   // in bytes; 0 in a volume
	Mount  string `json:"mount"`  // file in the job view where it appears, see ImagePlace
}

// Marshal returns the one encoding of a valid manifest, without a line end.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encoding a manifest: %w", err)
	}
	return m.marshal()
}

func (m *Manifest) marshal() ([]byte, error) {
	c := *m
	// null is no encoding of an empty list.
	if c.Arguments == nil {
		c.Arguments = []string{}
	}
	if c.Environment == nil {
		c.Environment = map[string]string{}
	}
	if c.Volumes == nil {
		c.Volumes = []Volume{}
	}
	if c.Runs != nil && c.Runs.Tasks == nil {
		c.Runs = &Runs{Tasks: []uint32{}, Attempts: c.Runs.Attempts}
	}
	if c.Tokens == nil {
		c.Tokens = []string{}
	}
	if c.Secrets == nil {
		c.Secrets = []byte{}
	}
	var b taken
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&c); err != nil {
		return nil, fmt.Errorf("encoding a manifest: %w", err)
	}
	line := bytes.TrimSuffix(b, []byte{'\n'})
	if len(line) > MaxManifest {
		return nil, fmt.Errorf("encoding a manifest: %d bytes, at most %d are served", len(line), MaxManifest)
	}
	return line, nil
}

// taken is what an encoder of package json wrote, taken out of the encoder's
// own buffer. Those buffers are kept for later encodings of anything, with what
// was in them: a manifest's tokens would stay there after its session.
type taken []byte

func (t *taken) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	clear(b)
	return len(b), nil
}

// ParseManifest reads a manifest line. It accepts exactly what Marshal writes:
// unknown, missing and duplicate fields, other spellings of a field's name,
// blanks and second forms of a number or a string are refused.
func ParseManifest(line []byte) (*Manifest, error) {
	if len(line) > MaxManifest {
		return nil, fmt.Errorf("%d bytes, at most %d are served", len(line), MaxManifest)
	}
	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("decoding it: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	if err := m.Validate(); err != nil && !mutant.Removed(mutant.MountPoints) {
		return nil, err
	}
	again, err := m.marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, line) {
		return nil, errors.New("it differs from its own re-encoding")
	}
	return m, nil
}
