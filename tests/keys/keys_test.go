// Package keys tests what docs/keys.md says that its pieces are worth: what the
// KMS has, and what a sealed job and a node's identity give, each without the
// rest. Nothing here is a stand-in but the network.
package keys

import (
	"bytes"
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

// patients is what the volume holds.
const patients = "Ada"

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
	if err := errors.Join(os.Mkdir(path("patients"), 0o700), os.WriteFile(path("patients/table"), []byte(patients), 0o600),
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

func stranger(t *testing.T) age.Identity {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestWhatTheKMSStoredAndSentOpensNoVolume(t *testing.T) {
	j := seal(t)
	all := j.between.everything(t)
	if bytes.Contains(all, j.file[:256]) {
		t.Error("the KMS has the sealed job")
	}
	jobKeys := j.between.jobKeys(t)
	if len(jobKeys) != 2 || !jobKeys[0].Equal(jobKeys[1]) {
		t.Fatalf("the operator heard %d job keys: the search finds nothing in what it searches", len(jobKeys))
	}
	heard := jobKeys[0].Reveal()
	key := func(b ...byte) secret.Bytes { return secret.New(b) }
	tries(t, "taken: all that the KMS stored, heard and sent", []piece{
		{"every byte of it, searched for the job's keys", func() error { return j.search(t, all) }, errNoKey},
		{"the job key in it, as the volume's key", func() error { return j.read(t, key(slices.Concat(heard, heard)...)) }, errPatients},
		{"the job key and zeros, as the volume's key", func() error { return j.read(t, key(append(bytes.Clone(heard), make([]byte, 32)...)...)) }, errPatients},
		{"the job key and the sealed job", func() error { return j.unseal(t, stranger(t), jobKeys[0]) }, sealed.ErrOtherNode},
		{"the job key and the node's identity", func() error {
			if _, err := age.Decrypt(bytes.NewReader(all), j.node); err == nil {
				return nil
			}
			return j.search(t, all)
		}, errNoKey},
		{"the job key, the sealed job, the node's identity", func() error { return j.unseal(t, j.node, jobKeys[0]) }, nil},
	})
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

func TestASealedJobAndANodesIdentityOpenNoVolume(t *testing.T) {
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
	guess := func() (err error) {
		for _, token := range append(m.Tokens, m.Spare) {
			sum := sha256.Sum256([]byte(token))
			for _, g := range [][]byte{sum[:], make([]byte, sealed.JobKeySize), []byte(m.Job)} {
				if err = j.unseal(t, j.node, secret.New(g)); err == nil {
					return nil
				}
			}
		}
		return err
	}
	redeem := func(token string) error {
		key, err := j.between.client.Redeem(t.Context(), secret.New([]byte(token)))
		if err != nil {
			return err
		}
		return j.unseal(t, j.node, key)
	}
	revoked := func() error {
		another := seal(t)
		text := another.between.everything(t)
		for _, m := range regexp.MustCompile(`"wrap_info":{"token":"[^"]+","accessor":"([^"]+)"`).FindAllSubmatch(text, -1) {
			if err := another.between.client.Revoke(t.Context(), another.between.user, string(m[1])); err != nil {
				return nil // nothing was shown
			}
		}
		e, err := sealed.Parse(another.file)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := e.Decrypt(another.node)
		if err != nil {
			t.Fatal(err)
		}
		_, err = another.between.client.Redeem(t.Context(), secret.New([]byte(m.Tokens[0])))
		return err
	}
	other := seal(t).between.jobKeys(t)[0]
	tries(t, "taken: a sealed job and a node's identity", []piece{
		{"the sealed job alone", func() error { return j.unseal(t, stranger(t), other) }, sealed.ErrOtherNode},
		{"both: script, manifest, tokens, searched for the job's keys", func() error { return j.search(t, slices.Concat(line, script)) }, errNoKey},
		{"both, guessing the job key by what is in them", guess, sealed.ErrSecrets},
		{"both, with another job's key", func() error { return j.unseal(t, j.node, other) }, sealed.ErrSecrets},
		{"both, and the KMS, with an unused token", func() error { return redeem(m.Tokens[0]) }, nil},
		{"both, and the KMS, after that", func() error { return redeem(m.Tokens[0]) }, kms.ErrUsed},
		{"both, and the KMS, once the owner revoked the job", revoked, kms.ErrUsed},
	})
}
