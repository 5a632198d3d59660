package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// corpusDir is the sif module's own test directory, wherever the module cache
// keeps it.
func corpusDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sylabs/sif/v2").Output()
	if err != nil {
		t.Fatalf("finding the sif module: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test")
}

// corpusKeys are the public halves of the keys that signed the corpus.
func corpusKeys(t *testing.T, dir string) *Keys {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "keys", "private.asc"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ring, err := openpgp.ReadArmoredKeyRing(f)
	if err != nil {
		t.Fatal(err)
	}
	all := public(t, ring...)
	for _, name := range []string{"ed25519", "rsa"} {
		b, err := os.ReadFile(filepath.Join(dir, "keys", name+"-public.pem"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, '\n'), b...)
	}
	k, err := ParseKeys(all)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Every image of the corpus is for 386; the verdict for386 is what an
// otherwise equal node would say.
func TestEveryImageOfTheSIFModulesCorpusGetsItsVerdict(t *testing.T) {
	dir := corpusDir(t)
	known, strangers := corpusKeys(t, dir), keysOf(t, newKey(t, 0))
	for name, c := range map[string]struct{ amd64, for386, stranger error }{
		"empty.sif":                          {ErrNoPartition, ErrNoPartition, ErrNoPartition},
		"empty-id.sif":                       {ErrNoPartition, ErrNoPartition, ErrNoPartition},
		"empty-launch-script.sif":            {ErrNoPartition, ErrNoPartition, ErrNoPartition},
		"one-object-time.sif":                {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-object-generic-json.sif":        {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-object-crypt-message.sif":       {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-object-sbom.sif":                {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-object-oci-root-index.sif":      {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-object-oci-blob.sif":            {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-group.sif":                      {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-group-signed-pgp.sif":           {ErrArchitecture, nil, ErrUnknownKey},
		"one-group-signed-dsse.sif":          {ErrArchitecture, nil, ErrUnknownKey},
		"one-group-signed-legacy.sif":        {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-group-signed-legacy-all.sif":    {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"one-group-signed-legacy-group.sif":  {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"two-groups.sif":                     {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"two-groups-signed-pgp.sif":          {ErrArchitecture, nil, ErrUnknownKey},
		"two-groups-signed-dsse.sif":         {ErrArchitecture, nil, ErrUnknownKey},
		"two-groups-signed-legacy.sif":       {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"two-groups-signed-legacy-all.sif":   {ErrUnsigned, ErrUnsigned, ErrUnsigned},
		"two-groups-signed-legacy-group.sif": {ErrUnsigned, ErrUnsigned, ErrUnsigned},
	} {
		f, err := os.Open(filepath.Join(dir, "images", name))
		if err != nil {
			t.Error(err)
			continue
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(f, info.Size(), known)
		want(t, name+" on amd64", err, c.amd64)
		_, err = verify(f, info.Size(), known, "386")
		want(t, name+" on 386", err, c.for386)
		_, err = verify(f, info.Size(), strangers, "386")
		want(t, name+" with another keyring", err, c.stranger)
	}
	all, err := filepath.Glob(filepath.Join(dir, "images", "*.sif"))
	if err != nil || len(all) != 21 {
		t.Errorf("the corpus has %d images, the table 21: %v", len(all), err)
	}
}
