// Package sealing turns an ordinary batch script into a sealed job: it looks up
// the keys of the volumes that the script names, plans the volumes that the
// node will make, puts a fresh job key behind single-use tokens in the KMS, and
// encrypts and signs.
//
// It either writes a complete sealed job or leaves nothing behind: on an error
// the tokens are revoked and the new keys forgotten. Only if the job may have been
// written and a token could not be revoked do the keys and the record stay.
package sealing

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"cloister/client/advice"
	"cloister/client/atomicfile"
	"cloister/client/directives"
	"cloister/client/jobs"
	"cloister/client/keystore"
	"cloister/kms"
	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/secret"
	"cloister/site"
	"cloister/volume"

	"golang.org/x/crypto/ssh"
)

// DefaultLifetime of a sealed job, when neither script nor command line says.
const DefaultLifetime = 7 * 24 * time.Hour

// revokeTime and revokeEach, for each token, bound the cleaning up after an error.
const (
	revokeTime = 10 * time.Second
	revokeEach = 50 * time.Millisecond
)

// A KMS is what sealing needs of *kms.Client.
type KMS interface {
	Wrap(ctx context.Context, userToken, jobKey secret.Bytes, ttl time.Duration) (kms.Token, error)
	Revoke(ctx context.Context, userToken secret.Bytes, accessor string) error
}

// Options says what to seal.
type Options struct {
	Home   string // Cloister's directory
	Script string // file
	Out    string // file of the sealed job

	Site      *site.File
	KMS       KMS
	UserToken secret.Bytes
	Signer    ssh.Signer
	User      string // who may submit it

	Class       string            // overrides the script's, unless ""
	Lifetime    time.Duration     // overrides the script's, unless 0
	Environment map[string]string // added to the script's, overriding it
	Arguments   []string          // of the script

	// Local maps a path as the script has it to a file on this machine, for
	// volumes and images that lie elsewhere here; a volume's also to its UUID.
	Local map[string]string

	// Progress, if not nil, is called while an image is read, with the bytes
	// read so far and those that will be.
	Progress func(done, total int64)
	// Ask asks for the passphrase of the store of keys, if it has one. May be nil.
	Ask keystore.Asker
	Now func() time.Time
}

// A Result is what Seal made.
type Result struct {
	Record *jobs.Record
	// Warnings are sentences about what will not stop the sealing, but may
	// surprise later.
	Warnings []string
}

// Seal writes the sealed job to o.Out. It replaces an empty file and another
// sealed job, and refuses to replace anything else.
func Seal(ctx context.Context, o Options) (_ *Result, err error) {
	text, err := readFile(o.Script, directives.MaxScript)
	if err != nil {
		return nil, fmt.Errorf("reading the script: %w", err)
	}
	if same(o.Script, o.Out) {
		return nil, advice.Misuse("name another file with -o", "the sealed job would replace the script %s", o.Script)
	}
	script, err := directives.Parse(text)
	if err != nil {
		return nil, err
	}
	s := &sealing{o: o, script: script, store: keystore.In(o.Home).Asking(o.Ask), secrets: &sealed.Secrets{}}
	defer s.secrets.Wipe()
	defer func() {
		if err == nil {
			return
		}
		if left := s.undo(); left > 0 {
			err = fmt.Errorf("%w; %d of %d tokens could not be revoked and end by themselves on %s", err, left, len(s.accessors), s.m.Expires.Format(time.DateOnly))
			if s.recorded {
				err = fmt.Errorf("%w, or with cloister revoke %s; the keys of its results are kept, as it may have been written", err, s.m.Job)
			}
		}
	}()
	if err := s.replace(); err != nil {
		return nil, err
	}
	if err := s.describe(); err != nil {
		return nil, err
	}
	if err := s.volumes(); err != nil {
		return nil, err
	}
	if err := s.image(ctx); err != nil {
		return nil, err
	}
	if err := s.secretFiles(); err != nil {
		return nil, err
	}
	if err := s.output(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.keys(ctx); err != nil {
		return nil, err
	}
	file, err := s.encode(text)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return s.write(file)
}

// sealing is one Seal at work.
type sealing struct {
	o       Options
	script  *directives.Script
	store   *keystore.Store
	m       sealed.Manifest
	secrets *sealed.Secrets

	kept      []string // UUIDs of the volumes that the node will make, once they are in the store
	accessors []string
	warnings  []string
	recorded  bool
}

// undo forgets what would serve nobody, and returns how many tokens it could not
// revoke. With such a token the sealed job runs, if it is there: its file may have
// got its name before the error. So the keys of its results stay, and the record,
// which revokes it.
func (s *sealing) undo() (left int) {
	ctx, cancel := context.WithTimeout(context.Background(), revokeTime+time.Duration(len(s.accessors))*revokeEach)
	defer cancel()
	for _, a := range s.accessors {
		if s.o.KMS.Revoke(ctx, s.o.UserToken, a) != nil {
			left++
		}
	}
	if left > 0 && s.recorded {
		return left
	}
	for _, uuid := range s.kept {
		_ = s.store.Remove(uuid)
	}
	if s.recorded {
		_ = jobs.Remove(s.o.Home, s.m.Job)
	}
	return left
}

func (s *sealing) describe() error {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("making a job id: %w", err)
	}
	class := sealed.ClassDedicated
	if s.script.Class != "" {
		class = s.script.Class
	}
	if s.o.Class != "" {
		class = s.o.Class
	}
	life := DefaultLifetime
	if s.script.Expires != 0 {
		life = s.script.Expires
	}
	if s.o.Lifetime != 0 {
		life = s.o.Lifetime
	}
	if most := s.o.Site.Class[class].MaxExpiry; most != nil && life > time.Duration(*most) {
		s.warnings = append(s.warnings, fmt.Sprintf("Nodes of class %s take no job that may live longer than %s: this one expires then.", class, most))
		life = time.Duration(*most)
	}
	created := s.o.Now().UTC().Truncate(time.Second)
	s.m = sealed.Manifest{
		Format: sealed.Format, Job: hex.EncodeToString(id),
		Signer: signers.Fingerprint(s.o.Signer.PublicKey()), User: s.o.User,
		Cluster: s.o.Site.Cluster, Class: class,
		Created: created, Expires: created.Add(life),
		Arguments: s.o.Arguments, Environment: maps.Clone(s.script.Environment),
		Runs: s.script.Runs(),
	}
	maps.Copy(s.m.Environment, s.o.Environment)
	return nil
}

// output sends stdout and stderr into the one volume that the job writes,
// unless the script says where.
func (s *sealing) output() error {
	out, name := s.script.Output, "/slurm-%j.out"
	if s.m.Runs.Array() {
		name = "/slurm-%A_%a.out" // as sbatch(1)
	}
	if out == "" {
		for _, v := range s.m.Volumes {
			if v.Mode != sealed.ReadWrite {
				continue
			}
			if out != "" {
				return advice.Refuse("add a line such as: #CLOISTER output="+v.Mount+name, "the job writes several volumes: into which does its output go?")
			}
			out = v.Mount + name
		}
	}
	if out == "" {
		return advice.Refuse("add a line such as: #CLOISTER volume=results.luks:/results:rw,create,size=1G", "the job has no volume to write its output and results to")
	}
	s.m.Stdout, s.m.Stderr = out, out
	return nil
}

// check validates the manifest before anything leaves this machine, with
// stand-ins for what comes from the KMS.
func (s *sealing) check() error {
	m := s.m
	m.Spare = "spare"
	for i := range m.Runs.Count() {
		m.Tokens = append(m.Tokens, "token"+strconv.Itoa(i))
	}
	jobKey := secret.Alloc(sealed.JobKeySize)
	var err error
	if m.Secrets, err = sealed.SealSecrets(s.secrets, jobKey, m.Job); err != nil {
		return err
	}
	if err := m.Validate(); err != nil {
		return advice.Refuse("correct the script or the arguments", "this job cannot be sealed: %w", err)
	}
	_, err = s.o.Site.AgeRecipients(m.Class)
	if err != nil {
		return advice.Refuse("choose another --class, or ask the administrator for a newer site file", "%w", err)
	}
	return nil
}

// keys puts a fresh job key behind a token for each run and a spare one.
func (s *sealing) keys(ctx context.Context) error {
	jobKey, err := secret.Random(rand.Reader, sealed.JobKeySize)
	if err != nil {
		return fmt.Errorf("making the job key: %w", err)
	}
	defer jobKey.Wipe()
	asked := s.m.Expires
	var tokens []string
	for range s.m.Runs.Count() + 1 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// The answer is waited for, after Ctrl-C too, as long as the client's
		// time-out: a token whose accessor is not known cannot be revoked.
		t, err := s.o.KMS.Wrap(context.WithoutCancel(ctx), s.o.UserToken, jobKey, asked.Sub(s.m.Created))
		if err != nil {
			return err
		}
		s.accessors = append(s.accessors, t.Accessor)
		tokens = append(tokens, string(t.Token.Reveal()))
		t.Token.Wipe()
		// A job must not outlive its tokens. The KMS's clock may be a little
		// behind this one: that alone shortens nothing.
		if end := t.Expires.UTC().Truncate(time.Second); end.Before(s.m.Expires) {
			s.m.Expires = end
		}
	}
	if asked.Sub(s.m.Expires) > time.Minute {
		s.warnings = append(s.warnings, "The KMS lets no token live as long as was asked for: the job expires sooner.")
	}
	last := len(tokens) - 1
	s.m.Tokens, s.m.Spare = tokens[:last], tokens[last]
	s.m.Secrets, err = sealed.SealSecrets(s.secrets, jobKey, s.m.Job)
	return err
}

func (s *sealing) encode(text []byte) ([]byte, error) {
	payload, err := sealed.Payload(&s.m, text)
	if err != nil && s.m.Runs != nil {
		return nil, advice.Refuse("seal several jobs, of fewer runs each", "this job cannot be sealed for %d runs: %w", s.m.Runs.Count(), err)
	}
	if err != nil {
		return nil, err
	}
	recipients, err := s.o.Site.AgeRecipients(s.m.Class)
	if err != nil {
		return nil, err
	}
	return sealed.Encode(s.script.SBATCH, s.m.Notice(), payload, recipients, s.o.Signer)
}

// write keeps the keys first, then the record, then the sealed job: a job
// whose results nobody could open must never exist.
func (s *sealing) write(file []byte) (*Result, error) {
	for _, run := range s.m.Runs.All() {
		if err := s.keep(run); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(file)
	r := jobs.New(&s.m)
	r.SHA256, r.Accessors = hex.EncodeToString(sum[:]), s.accessors
	if err := jobs.Put(s.o.Home, r); err != nil {
		return nil, err
	}
	s.recorded = true
	// Ciphertext: others may read it.
	if err := atomicfile.Write(s.o.Out, file, 0o644); err != nil {
		return nil, err
	}
	return &Result{r, s.warnings}, nil
}

// keep puts the keys of the volumes that the node will make in a run into the
// store, under the names that their files will have.
func (s *sealing) keep(run sealed.Run) error {
	own, err := s.m.ForRun(run)
	if err != nil {
		return err
	}
	for i, v := range own.Volumes {
		if !v.Create {
			continue
		}
		keys := s.secrets.Volumes[i]
		if s.m.Volumes[i].PerRun() {
			if keys, err = keys.ForRun(s.m.Job, run); err != nil {
				return err
			}
		}
		err := s.store.Put(keystore.Volume{
			Name: path.Base(v.Path), Label: v.Label, Job: s.m.Job, Created: s.m.Created, Pinned: v.Pinned,
			Keys: volume.Keys{VolumeKey: keys.VolumeKey, KeyslotKey: keys.KeyslotKey},
		})
		if s.m.Volumes[i].PerRun() {
			keys.Wipe()
		}
		if err != nil {
			return err
		}
		s.kept = append(s.kept, v.Pinned.UUID)
	}
	return nil
}

func same(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
