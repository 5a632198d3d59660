package sealing

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/kms"
	"cloister/sealed"
	"cloister/secret"
	"cloister/site"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// fakeKMS remembers what was wrapped and revoked; it fails at the n-th Wrap.
type fakeKMS struct {
	wraps, failAt int
	keys          []secret.Bytes
	revoked       []string
	life          time.Duration // the longest that it gives
	now           time.Time
}

func (k *fakeKMS) Wrap(_ context.Context, _, jobKey secret.Bytes, ttl time.Duration) (kms.Token, error) {
	k.wraps++
	if k.wraps == k.failAt {
		return kms.Token{}, kms.ErrUnreachable
	}
	k.keys = append(k.keys, secret.New(slices.Clone(jobKey.Reveal())))
	n := strconv.Itoa(k.wraps)
	return kms.Token{Token: secret.New([]byte("s.token" + n)), Accessor: "accessor" + n, Expires: k.now.Add(min(ttl, k.life))}, nil
}

func (k *fakeKMS) Revoke(_ context.Context, _ secret.Bytes, accessor string) error {
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
		"interrupted":  {ctx: cancelled, want: context.Canceled},
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
