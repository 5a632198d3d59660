package attacks

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	format "cloister/sealed"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

func TestEverySampledByteIsInItsRegionAndChanges(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	node, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	notice := (&format.Manifest{Expires: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}).Notice()
	file, err := format.Encode([]string{"#SBATCH --partition=secure", "#SBATCH --time=10"}, notice, make([]byte, 4000), []age.Recipient{node.Recipient()}, signer)
	if err != nil {
		t.Fatal(err)
	}
	all, err := spots(string(file))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range all {
		if seen[p.at] {
			t.Errorf("byte %d is sampled twice", p.at)
		}
		seen[p.at] = true
		changed := bytes.Clone(file)
		changed[p.at] = other(file[p.at])
		if bytes.Equal(changed, file) {
			t.Errorf("the byte of the %s stays as it is", p.region)
		}
		// What still parses must differ in what is signed, or in the signature.
		if e, err := format.Parse(changed); err == nil && p.region != "signature" {
			original, err := format.Parse(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(e.Signed(), original.Signed()) {
				t.Errorf("the byte of the %s changes nothing that is signed", p.region)
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("%d bytes are sampled", len(seen))
	}
}
