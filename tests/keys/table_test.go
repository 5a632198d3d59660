package keys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	"cloister/secret"
	"cloister/volume"

	"filippo.io/age"
)

// A piece is what somebody took, and the way from there to the volume.
type piece struct {
	taken string
	// open ends without an error if the volume opened.
	open func() error
	// want is nil for what must open it: the control, without which the
	// refusals would show nothing.
	want error
}

// errNoKey: what was taken holds no key to try.
var errNoKey = errors.New("no key in it")

// tries goes all the ways and prints what was taken and what it opened: make
// test shows it.
func tries(t *testing.T, title string, pieces []piece) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "%s\twhat it opened\n", title)
	for _, p := range pieces {
		err := p.open()
		opened := "THE VOLUME"
		switch {
		case !errors.Is(err, p.want):
			t.Errorf("%s: %v, want %v", p.taken, err, p.want)
			opened = fmt.Sprint("UNEXPECTED: ", err)
		case err != nil:
			opened = "nothing: " + p.want.Error()
		}
		fmt.Fprintf(w, "%s\t%s\n", p.taken, opened)
	}
	w.Flush()
	t.Logf("\n%s", b.String())
}

// errPatients: the file in the volume is not the one that was put there.
var errPatients = errors.New("not what was put into the volume")

// read takes the patients out of the volume with a key of it.
func (j job) read(t *testing.T, key secret.Bytes) error {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out")
	if _, err := volume.Extract(t.Context(), volume.ExtractOptions{Path: j.volume, To: to, Pinned: j.pinned, VolumeKey: key}); err != nil {
		return fmt.Errorf("%w: %w", errPatients, err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "table")); err != nil || string(b) != patients {
		return fmt.Errorf("%w: %q, %w", errPatients, b, err)
	}
	return nil
}

// search tries every key of the job that is found in what was taken.
func (j job) search(t *testing.T, taken []byte) error {
	t.Helper()
	for _, key := range j.keys {
		if key.Len() > 0 && holds(taken, key) {
			return nil
		}
	}
	return errNoKey
}

// unseal does what a node does once it has the job key.
func (j job) unseal(t *testing.T, id age.Identity, jobKey secret.Bytes) error {
	t.Helper()
	s, err := j.open(t, id, jobKey)
	if err != nil {
		return err
	}
	if !s.Files[0].Equal(j.keys[len(j.keys)-1]) {
		return errors.New("the secret file is another one")
	}
	return j.read(t, s.Volumes[0].VolumeKey)
}
