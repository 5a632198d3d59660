// Package keys tests what docs/keys.md says that its pieces are worth: what the
// KMS has, and what a sealed job and a node's identity give, each without the
// rest. Nothing here is a stand-in but the network.
package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"cloister/client/keystore"
	"cloister/client/sealing"
	"cloister/kms"
	"cloister/kms/server"
	"cloister/sealed"
	"cloister/secret"
	"cloister/site"
	"cloister/volume"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// operator is a KMS whose operator writes down all that it hears and says.
type operator struct {
	state   string // its directory
	user    secret.Bytes
	client  *kms.Client
	address string
	ca      string

	mu    sync.Mutex
	heard bytes.Buffer
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{state: filepath.Join(t.TempDir(), "kms")}
	if _, err := server.Init(o.state, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	var err error
	if o.user, err = server.AddUser(o.state, "alice"); err != nil {
		t.Fatal(err)
	}
	s, err := server.Open(server.Config{Dir: o.state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	handler := s.Handler()
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := httputil.DumpRequest(r, true) // what cannot be read, the handler cannot either
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		o.mu.Lock()
		o.heard.Write(request)
		o.heard.Write(answer.Body.Bytes())
		o.mu.Unlock()
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(web.Close)
	o.address, o.ca = web.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	if o.client, err = kms.New(kms.Config{Address: o.address, CAPEM: []byte(o.ca)}); err != nil {
		t.Fatal(err)
	}
	return o
}

// everything is what the operator heard and said, and every byte of its disk.
func (o *operator) everything(t *testing.T) []byte {
	t.Helper()
	o.mu.Lock()
	all := bytes.Clone(o.heard.Bytes())
	o.mu.Unlock()
	err := filepath.WalkDir(o.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(all, b...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// jobKeys finds the job keys in what the operator heard.
func (o *operator) jobKeys(t *testing.T) []secret.Bytes {
	t.Helper()
	var keys []secret.Bytes
	for _, m := range regexp.MustCompile(`"job_key":"([^"]+)"`).FindAllSubmatch(o.everything(t), -1) {
		k, err := base64.StdEncoding.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, secret.New(k))
	}
	return keys
}

// holds says whether the bytes have the key in one of the forms that keys take.
func holds(b []byte, key secret.Bytes) bool {
	k := key.Reveal()
	return slices.ContainsFunc([][]byte{
		k, []byte(hex.EncodeToString(k)), []byte(base64.StdEncoding.EncodeToString(k)), []byte(base64.RawURLEncoding.EncodeToString(k)),
	}, func(form []byte) bool { return bytes.Contains(b, form) })
}

// a job of alice's: a volume of hers, one that the node makes, and a secret file.
type job struct {
	file    []byte
	volume  string // file
	pinned  volume.Pinned
	keys    []secret.Bytes // of both volumes, then the secret file
	node    age.Identity
	between *operator
}

func seal(t *testing.T) job {
	t.Helper()
	j := job{between: newOperator(t)}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	script := "#!/bin/sh\n#CLOISTER volume=patients.luks:/data:ro\n#CLOISTER volume=results.luks:/results:rw,create,size=64M\n#CLOISTER secret=pem:key.pem\ntrue\n"
	pem, err := secret.Random(rand.Reader, 48)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(path("patients"), 0o700), os.WriteFile(path("patients/table"), []byte("Ada"), 0o600),
		os.WriteFile(path("key.pem"), pem.Reveal(), 0o600), os.WriteFile(path("job.sh"), []byte(script), 0o600)); err != nil {
		t.Fatal(err)
	}
	j.volume = path("patients.luks")
	pinned, keys, err := volume.Create(t.Context(), volume.CreateOptions{Path: j.volume, From: path("patients"), Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	j.pinned = pinned
	store := keystore.In(path("home"))
	if err := store.Put(keystore.Volume{Name: "patients.luks", Created: time.Now(), Pinned: pinned, Keys: keys}); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	o := sealing.Options{
		Home: path("home"), Script: path("job.sh"), Out: path("job.sealed"), KMS: j.between.client, UserToken: j.between.user,
		Signer: signer, User: "alice", Now: time.Now,
		Site: &site.File{Format: site.Format, Cluster: "demo", KMS: site.KMS{Address: j.between.address, CA: j.between.ca},
			Class: map[string]site.Class{site.Dedicated: {Recipients: []string{id.Recipient().String()}}}},
	}
	if _, err := sealing.Seal(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	j.node = id
	if j.file, err = os.ReadFile(o.Out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"patients.luks", "results.luks"} {
		v, err := store.Named(name)
		if err != nil || len(v) != 1 {
			t.Fatal(v, err)
		}
		j.keys = append(j.keys, v[0].Keys.VolumeKey, v[0].Keys.KeyslotKey)
	}
	j.keys = append(j.keys, pem)
	return j
}

// open does what a node does once it has the job key.
func (j job) open(t *testing.T, id age.Identity, key secret.Bytes) (*sealed.Secrets, error) {
	t.Helper()
	e, err := sealed.Parse(j.file)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := e.Decrypt(id)
	if err != nil {
		return nil, err
	}
	return m.OpenSecrets(key)
}

// extract tries a key on the volume's file.
func (j job) extract(t *testing.T, key secret.Bytes) error {
	t.Helper()
	_, err := volume.Extract(context.Background(), volume.ExtractOptions{Path: j.volume, To: filepath.Join(t.TempDir(), "out"), Pinned: j.pinned, VolumeKey: key})
	return err
}

func TestWhatTheKMSEverHadOpensNoVolume(t *testing.T) {
	j := seal(t)
	all := j.between.everything(t)
	for i, key := range j.keys {
		if key.Len() > 0 && holds(all, key) {
			t.Errorf("the KMS has key %d", i)
		}
	}
	if bytes.Contains(all, j.file[:256]) {
		t.Error("the KMS has the sealed job")
	}
	jobKeys := j.between.jobKeys(t)
	if len(jobKeys) != 2 || !jobKeys[0].Equal(jobKeys[1]) {
		t.Fatalf("the operator heard %d job keys: the search above finds nothing in what it searches", len(jobKeys))
	}
	stranger, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.open(t, stranger, jobKeys[0]); !errors.Is(err, sealed.ErrOtherNode) {
		t.Errorf("the job key and the sealed job, without a node's identity: %v", err)
	}
	twice := secret.New(slices.Concat(jobKeys[0].Reveal(), jobKeys[0].Reveal()))
	if err := j.extract(t, twice); err == nil {
		t.Error("the job key opens the volume")
	}
	// With all three it opens, so each refusal above is of what was left out.
	s, err := j.open(t, j.node, jobKeys[0])
	if err != nil || !s.Volumes[0].VolumeKey.Equal(j.keys[0]) || !s.Files[0].Equal(j.keys[4]) {
		t.Fatalf("with all that it takes: %v", err)
	}
	if err := j.extract(t, s.Volumes[0].VolumeKey); err != nil {
		t.Errorf("with the volume's own key: %v", err)
	}
}

func TestWhatTheKMSStoresHasNoJobKey(t *testing.T) {
	j := seal(t)
	heard := j.between.jobKeys(t)[0]
	j.between.mu.Lock()
	j.between.heard.Reset()
	j.between.mu.Unlock()
	if disk := j.between.everything(t); len(disk) == 0 || holds(disk, heard) {
		t.Errorf("%d bytes on its disk, with the job key: %v", len(disk), holds(disk, heard))
	}
}

func TestASealedJobAndANodesIdentityOpenNoVolumeWithoutAnUnusedToken(t *testing.T) {
	j := seal(t)
	e, err := sealed.Parse(j.file)
	if err != nil {
		t.Fatal(err)
	}
	m, script, err := e.Decrypt(j.node)
	if err != nil {
		t.Fatal(err)
	}
	line, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range j.keys {
		if key.Len() > 0 && (holds(line, key) || holds(script, key)) {
			t.Errorf("the opened job has key %d", i)
		}
	}
	// What could be tried in the job key's place.
	for _, token := range append(m.Tokens, m.Spare) {
		sum := sha256.Sum256([]byte(token))
		for _, guess := range [][]byte{sum[:], make([]byte, sealed.JobKeySize), []byte(m.Job)} {
			if _, err := sealed.OpenSecrets(m.Secrets, secret.New(guess), m.Job); !errors.Is(err, sealed.ErrSecrets) {
				t.Errorf("a guess: %v", err)
			}
		}
	}
	key, err := j.between.client.Redeem(t.Context(), secret.New([]byte(m.Tokens[0])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.open(t, j.node, key); err != nil {
		t.Errorf("the node itself: %v", err)
	}
	if _, err := j.between.client.Redeem(t.Context(), secret.New([]byte(m.Tokens[0]))); !errors.Is(err, kms.ErrUsed) {
		t.Errorf("the token again: %v", err)
	}
	// Nor does another job's key.
	other := seal(t)
	if _, err := j.open(t, j.node, other.between.jobKeys(t)[0]); !errors.Is(err, sealed.ErrSecrets) {
		t.Errorf("another job's key: %v", err)
	}
}
