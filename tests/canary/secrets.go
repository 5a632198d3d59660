package canary

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"cloister/client/keystore"
	"cloister/tests/canary/search"
	"cloister/tests/deploy"
)

func needle(kind, what string, value []byte) search.Needle {
	return search.Needle{Name: kind + ": " + what, Value: value}
}

// NewWord returns a random word for a job to work with, which must be nowhere else.
func NewWord(what string) (string, search.Needle) {
	w := word()
	return w, needle(kindWords, what, []byte(w))
}

// A Sealer seals jobs of alice's and tells what is secret of them.
type Sealer struct {
	site    *deploy.Site
	program string
}

// NewSealer builds the command in dir.
func NewSealer(ctx context.Context, s *deploy.Site, dir string) (*Sealer, error) {
	program := filepath.Join(dir, "sealer")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "cloister/tests/canary/sealer").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the sealer: %w: %s", err, out)
	}
	return &Sealer{s, program}, nil
}

// Seal seals name.sh on alice's laptop, uploads name.sealed, and returns the
// job's key and tokens.
func (l *Sealer) Seal(ctx context.Context, name string) (secrets []search.Needle, err error) {
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", l.site.Netns(), l.program, name+".sh", name+".sealed")
	cmd.Dir = l.site.LaptopDir(who)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "CLOISTER_HOME=" + l.site.Home(who)}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	var told struct {
		JobKey []byte   `json:"job_key"`
		Tokens []string `json:"tokens"`
	}
	if err := json.Unmarshal(out, &told); err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	if len(told.JobKey) == 0 || len(told.Tokens) < 2 {
		return nil, fmt.Errorf("seal %s: the sealer told no job key and two tokens", name)
	}
	secrets = append(secrets, needle(kindJobKey, name, told.JobKey))
	for i, t := range told.Tokens {
		secrets = append(secrets, needle(kindTokens, fmt.Sprintf("%s/%d", name, i), []byte(t)))
	}
	return secrets, l.site.Upload(ctx, who, name+".sealed")
}

// VolumeKeys returns the keys of alice's volumes by their names: each 32 bytes of a volume key by themselves, for XTS
// and HMAC key their parts apart, so a copy of one is a leak too.
func VolumeKeys(s *deploy.Site, names ...string) (secrets []search.Needle, err error) {
	store := keystore.In(s.Home(who))
	for _, name := range names {
		volumes, err := store.Named(name)
		if err != nil {
			return nil, err
		}
		if len(volumes) != 1 {
			return nil, fmt.Errorf("%d volumes are named %s", len(volumes), name)
		}
		k := volumes[0].Keys
		part := 0
		for piece := range slices.Chunk(k.VolumeKey.Reveal(), 32) {
			part++
			secrets = append(secrets, needle(kindKeys, fmt.Sprintf("%s part %d", name, part), piece))
		}
		secrets = append(secrets, needle(kindKeys, name+" keyslot", k.KeyslotKey.Reveal()))
	}
	return secrets, nil
}
