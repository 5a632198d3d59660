package sealing

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/client/jobs"
	"cloister/client/keystore"
	"cloister/kms"
	"cloister/sealed"
	"cloister/secret"
	"cloister/site"
	"cloister/span"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// fakeKMS remembers what was wrapped and revoked; it fails at the n-th Wrap.
type fakeKMS struct {
	wraps, failAt int
	asked         func(wraps int) // called while the n-th token is made
	keys          []secret.Bytes
	revoked       []string
	deaf          bool          // to revocations
	life          time.Duration // the longest that it gives
	padding       string        // makes its tokens long
	now           time.Time
}

func (k *fakeKMS) Wrap(ctx context.Context, _, jobKey secret.Bytes, ttl time.Duration) (kms.Token, error) {
	k.wraps++
	if k.wraps == k.failAt {
		return kms.Token{}, kms.ErrUnreachable
	}
	k.keys = append(k.keys, secret.New(slices.Clone(jobKey.Reveal())))
	if k.asked != nil {
		k.asked(k.wraps)
	}
	if err := ctx.Err(); err != nil {
		return kms.Token{}, err // the server has made it: the answer is lost
	}
	n := strconv.Itoa(k.wraps)
	return kms.Token{Token: secret.New([]byte("s.token" + n + k.padding)), Accessor: "accessor" + n, Expires: k.now.Add(min(ttl, k.life))}, nil
}

func (k *fakeKMS) Revoke(_ context.Context, _ secret.Bytes, accessor string) error {
	if k.deaf {
		return kms.ErrUnreachable
	}
	k.revoked = append(k.revoked, accessor)
	return nil
}

func options(t *testing.T, k *fakeKMS, script string) (Options, age.Identity) {
	t.Helper()
	dir := t.TempDir()
	job := filepath.Join(dir, "job.sh")
	if err := os.WriteFile(job, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k.now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	if k.life == 0 {
		k.life = kms.MaxTTL
	}
	return Options{
		Home: filepath.Join(dir, "home"), Script: job, Out: filepath.Join(dir, "job.sealed"),
		Site: &site.File{Cluster: "demo", Class: map[string]site.Class{site.Dedicated: {Recipients: []string{id.Recipient().String()}}}},
		KMS:  k, Signer: signer, User: "alice", Now: func() time.Time { return k.now },
	}, id
}

const create = "#!/bin/sh\n#CLOISTER volume=results.luks:/results:rw,create,size=64M\ntrue\n"

const runs = "#!/bin/sh\n#SBATCH --array=1-2\n#CLOISTER requeue=1\n#CLOISTER volume=r-%a-%r.luks:/results:rw,create,size=64M\ntrue\n"

func rewrite(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func manifest(t *testing.T, path string, id age.Identity) *sealed.Manifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := sealed.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := e.Decrypt(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, filepath.Base(p))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEachSealHasFreshKeysAndTwoTokens(t *testing.T) {
	k := &fakeKMS{}
	o, id := options(t, k, create)
	var seen []*sealed.Manifest
	for range 2 {
		if _, err := Seal(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, manifest(t, o.Out, id))
	}
	a, b := seen[0], seen[1]
	if a.Job == b.Job || a.Volumes[0].Pinned.UUID == b.Volumes[0].Pinned.UUID {
		t.Error("two seals share a job id or a volume")
	}
	if len(k.keys) != 4 || !k.keys[0].Equal(k.keys[1]) || k.keys[0].Equal(k.keys[2]) {
		t.Error("want one job key behind both tokens of a job, and another for the next job")
	}
	if !slices.Equal(a.Tokens, []string{"s.token1"}) || a.Spare != "s.token2" {
		t.Errorf("tokens %v, %v", a.Tokens, a.Spare)
	}
	one, err := sealed.OpenSecrets(a.Secrets, k.keys[0], a.Job)
	if err != nil {
		t.Fatal(err)
	}
	two, err := sealed.OpenSecrets(b.Secrets, k.keys[2], b.Job)
	if err != nil {
		t.Fatal(err)
	}
	if one.Volumes[0].VolumeKey.Equal(two.Volumes[0].VolumeKey) {
		t.Error("two seals share a volume key")
	}
}

func TestEachRunHasATokenAndTheKeysOfItsFileAreKept(t *testing.T) {
	k := &fakeKMS{}
	o, id := options(t, k, "#!/bin/sh\n#SBATCH --array=1-5:2,8%2\n#CLOISTER requeue=1\n#CLOISTER volume=/shared/r-%a-%r.luks:/results:rw,create,size=64M\ntrue\n")
	r, err := Seal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest(t, o.Out, id)
	if len(k.keys) != 9 || len(m.Tokens) != 8 || m.Spare != "s.token9" || len(r.Record.Accessors) != 9 || r.Record.Runs.String() != "1,3,5,8" {
		t.Fatalf("%d wraps, tokens %q and %q, %d accessors, runs %+v", len(k.keys), m.Tokens, m.Spare, len(r.Record.Accessors), r.Record.Runs)
	}
	if m.Stdout != "/results/slurm-%A_%a.out" {
		t.Errorf("output %s", m.Stdout)
	}
	store := keystore.In(o.Home)
	for i, run := range m.Runs.All() {
		own, err := m.ForRun(run)
		if err != nil {
			t.Fatal(err)
		}
		secrets, err := sealed.OpenSecrets(m.Secrets, k.keys[i], m.Job) // as a node does
		if err != nil {
			t.Fatal(err)
		}
		if err := m.RunSecrets(secrets, run); err != nil {
			t.Fatal(err)
		}
		v, err := store.Get(own.Volumes[0].Pinned.UUID)
		if err != nil {
			t.Fatal(err)
		}
		if v.Name != path.Base(own.Volumes[0].Path) || v.Label+".luks" != v.Name || !v.Keys.VolumeKey.Equal(secrets.Volumes[0].VolumeKey) || !v.Keys.KeyslotKey.Equal(secrets.Volumes[0].KeyslotKey) {
			t.Errorf("run %s: the store has other keys or another name: %s, %s", run.ID(""), v.Name, v.Label)
		}
	}
	if _, err := store.Get(m.Volumes[0].Pinned.UUID); !errors.Is(err, keystore.ErrUnknown) {
		t.Errorf("the keys that all runs' are made from are kept: %v", err)
	}
	done, err := Revoke(t.Context(), o.Home, k, secret.Bytes{}, r.Record, k.now)
	if err != nil || done.Revoked != 9 || !slices.Equal(k.revoked, r.Record.Accessors) {
		t.Errorf("revoking them: %+v, %v", done, err)
	}
}

func TestTheMostRunsFitIntoASealedJob(t *testing.T) {
	k := &fakeKMS{}
	script := func(tasks string) string {
		return "#!/bin/sh\n#SBATCH --array=" + tasks + "\n#CLOISTER output=/dev/null\ntrue\n"
	}
	o, id := options(t, k, script("0-1023"))
	if _, err := Seal(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if m := manifest(t, o.Out, id); len(m.Tokens) != sealed.MaxRuns {
		t.Errorf("%d tokens", len(m.Tokens))
	}
	k = &fakeKMS{}
	o, _ = options(t, k, script("0-1024"))
	if _, err := Seal(t.Context(), o); err == nil || k.wraps != 0 {
		t.Errorf("more than the most: %v, %d tokens", err, k.wraps)
	}
	k = &fakeKMS{padding: strings.Repeat("x", 300)}
	o, _ = options(t, k, script("0-1023"))
	if _, err := Seal(t.Context(), o); err == nil || !strings.Contains(err.Error(), "for 1024 runs") || len(k.revoked) != 1025 {
		t.Errorf("tokens too long for the manifest: %v, %d revoked", err, len(k.revoked))
	}
}

func TestAJobDoesNotOutliveItsTokens(t *testing.T) {
	k := &fakeKMS{life: time.Hour}
	o, id := options(t, k, create)
	r, err := Seal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if m := manifest(t, o.Out, id); !m.Expires.Equal(k.now.Add(time.Hour)) {
		t.Errorf("expires %s", m.Expires)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "sooner") {
		t.Errorf("%q", r.Warnings)
	}
}

func TestTokensThatCannotBeRevokedAreTold(t *testing.T) {
	o, _ := options(t, &fakeKMS{failAt: 2, deaf: true}, create)
	if _, err := Seal(t.Context(), o); !errors.Is(err, kms.ErrUnreachable) || !strings.Contains(err.Error(), "1 of 1 tokens could not be revoked") {
		t.Errorf("%v", err)
	}
}

// TestAJobThatMayRunHasItsKeysAndItsRecord has the writing of the sealed job fail,
// after which nobody knows here whether it is there, as the KMS cannot be reached.
func TestAJobThatMayRunHasItsKeysAndItsRecord(t *testing.T) {
	k := &fakeKMS{deaf: true}
	o, _ := options(t, k, create)
	o.Out = filepath.Join(filepath.Dir(o.Out), "missing", "job.sealed")
	_, err := Seal(t.Context(), o)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "2 of 2 tokens could not be revoked") {
		t.Fatal(err)
	}
	_, job, _ := strings.Cut(err.Error(), "cloister revoke ")
	job, _, _ = strings.Cut(job, ";")
	r, err := jobs.Get(o.Home, job)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := keystore.In(o.Home).Named("results.luks")
	if err != nil || len(kept) != 1 {
		t.Errorf("the keys of %d volumes are kept, %v", len(kept), err)
	}
	k.deaf = false
	if done, err := Revoke(t.Context(), o.Home, k, secret.Bytes{}, r, k.now); err != nil || done.Revoked != 2 {
		t.Errorf("revoking it: %+v, %v", done, err)
	}
}

func TestAJobLivesNoLongerThanTheNodesAllow(t *testing.T) {
	k := &fakeKMS{}
	o, id := options(t, k, create)
	most := span.Duration(48 * time.Hour)
	for name, c := range o.Site.Class {
		c.MaxExpiry = &most
		o.Site.Class[name] = c
	}
	r, err := Seal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if m := manifest(t, o.Out, id); m.Expires.Sub(m.Created) != 48*time.Hour {
		t.Errorf("it lives for %s", m.Expires.Sub(m.Created))
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "longer than 2d") {
		t.Errorf("%q", r.Warnings)
	}
}

func TestAnErrorHalfWayLeavesNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		failAt int
		alter  func(o *Options)
		want   error
	}{
		"first token":  {ctx: t.Context(), failAt: 1, want: kms.ErrUnreachable},
		"second token": {ctx: t.Context(), failAt: 2, want: kms.ErrUnreachable},
		"a later run":  {ctx: t.Context(), failAt: 4, want: kms.ErrUnreachable, alter: func(o *Options) { rewrite(t, o.Script, runs) }},
		"no room for a job of several runs": {ctx: t.Context(), want: os.ErrNotExist, alter: func(o *Options) {
			rewrite(t, o.Script, runs)
			o.Out = filepath.Join(filepath.Dir(o.Out), "missing", "job.sealed")
		}},
		"interrupted": {ctx: cancelled, want: context.Canceled},
		"no room": {ctx: t.Context(), want: os.ErrNotExist, alter: func(o *Options) {
			o.Out = filepath.Join(filepath.Dir(o.Out), "missing", "job.sealed")
		}},
	} {
		k := &fakeKMS{failAt: c.failAt}
		o, _ := options(t, k, create)
		if c.alter != nil {
			c.alter(&o)
		}
		if _, err := Seal(c.ctx, o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, filepath.Dir(o.Script)); !slices.Equal(left, []string{"job.sh"}) {
			t.Errorf("%s left %v", name, left)
		}
		if want := len(k.keys); len(k.revoked) != want {
			t.Errorf("%s: %d tokens made, %v revoked", name, want, k.revoked)
		}
	}
}

func TestAnInterruptionRevokesTheTokenThatIsBeingMade(t *testing.T) {
	for n := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		k := &fakeKMS{asked: func(wraps int) {
			if wraps == n+1 {
				cancel()
			}
		}}
		o, _ := options(t, k, create)
		if _, err := Seal(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("during token %d: %v", n+1, err)
		}
		if len(k.keys) != n+1 || len(k.revoked) != n+1 {
			t.Errorf("interrupted during token %d: %d made, %v revoked", n+1, len(k.keys), k.revoked)
		}
		if left := files(t, filepath.Dir(o.Script)); !slices.Equal(left, []string{"job.sh"}) {
			t.Errorf("during token %d: left %v", n+1, left)
		}
	}
}

func TestWhatCannotBeSealedNeverReachesTheKMS(t *testing.T) {
	for name, script := range map[string]string{
		"output nowhere":     "#!/bin/sh\n#CLOISTER volume=r.luks:/results:rw,create,size=64M\n#CLOISTER output=/data/out\n",
		"two for the output": "#!/bin/sh\n#CLOISTER volume=r.luks:/r:rw,create,size=64M\n#CLOISTER volume=s.luks:/s:rw,create,size=64M\n",
		"another class":      "#!/bin/sh\n#CLOISTER class=on-demand\n#CLOISTER volume=r.luks:/r:rw,create,size=64M\n",
		"missing volume":     "#!/bin/sh\n#CLOISTER volume=p.luks:/data:ro\n",
	} {
		k := &fakeKMS{}
		o, _ := options(t, k, script)
		if _, err := Seal(t.Context(), o); err == nil {
			t.Errorf("%s: sealed", name)
		}
		if k.wraps != 0 {
			t.Errorf("%s: %d tokens were made", name, k.wraps)
		}
	}
}

// TestInterruptedImage has Ctrl-C come while an image is read.
func TestInterruptedImage(t *testing.T) {
	k := &fakeKMS{}
	o, _ := options(t, k, "#!/bin/sh\n#CLOISTER volume=results.luks:/results:rw,create,size=64M\n#CLOISTER image=app.sif\ntrue\n")
	const size = 1 << 30
	image := filepath.Join(filepath.Dir(o.Script), "app.sif")
	rewrite(t, image, "")
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	var read, all int64
	o.Progress = func(done, total int64) {
		read, all = done, total
		interrupt()
	}
	if _, err := Seal(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if read == 0 || read > size/2 || all != size {
		t.Errorf("%d of %d bytes were read after the interruption, of an image of %d", read, all, size)
	}
	if k.wraps != 0 {
		t.Errorf("%d tokens were made", k.wraps)
	}
	if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the sealed job: %v", err)
	}
}
