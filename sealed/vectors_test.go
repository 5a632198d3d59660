package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/sealed/signers"
	"cloister/secret"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

var update = flag.Bool("update", false, "write new test vectors, with new keys")

const vectorDir = "testdata/vectors"

// outcomes are the words of a vector's expect field (docs/format.md).
var outcomes = map[string]error{
	"success": nil, "not sealed": ErrNotSealed, "altered": ErrAltered, "unknown signer": ErrUnknownSigner,
	"expired signer": ErrExpiredSigner, "other node": ErrOtherNode, "manifest": ErrManifest, "other user": ErrOtherUser,
	"expired": ErrExpired, "other arguments": ErrOtherArguments, "clock": ErrClock, "other cluster": ErrOtherCluster, "other class": ErrOtherClass, "other run": ErrOtherRun, "secrets": ErrSecrets,
}

// A vector is header fields, an empty line and a sealed job, given to a node
// of cluster "demo" and class "dedicated" with vectorDir's identity.txt and
// allowed_signers.
type vector struct {
	expect  string // a key of outcomes
	comment string
	user    string    // who submits it
	given   []string  // with these arguments
	time    time.Time // the node's clock
	jobKey  []byte    // what the KMS answers
	which   Run       // that Slurm launches
	made    string    // path, UUID and volume key of what the run makes, if that is given
	file    []byte
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	list, err := parseSigners(string(readVector(t, "allowed_signers")))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(readVector(t, "identity.txt")))
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(vectorDir, "*.vector"))
	if err != nil || len(names) < 10 {
		t.Fatalf("%d vectors, %v", len(names), err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			v := parseVector(t, readVector(t, filepath.Base(name)))
			want, ok := outcomes[v.expect]
			if !ok {
				t.Fatalf("expects %q", v.expect)
			}
			if err := v.run(list, ids); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("got %v, want %s", err, v.expect)
			}
		})
	}
}

func (v *vector) run(list *signers.List, ids []age.Identity) error {
	e, err := Parse(v.file)
	if err != nil {
		return err
	}
	signer, err := e.Verify(list, v.time)
	if err != nil {
		return err
	}
	m, _, err := e.Decrypt(ids...)
	if err != nil {
		return err
	}
	if err := CheckBinding(m, signer, v.user); err != nil {
		return err
	}
	if err := m.CheckPlace("demo", ClassDedicated); err != nil {
		return err
	}
	if err := m.CheckTime(v.time); err != nil {
		return err
	}
	if err := m.CheckArguments(v.given); err != nil {
		return err
	}
	if err := m.CheckRun(v.which); err != nil {
		return err
	}
	secrets, err := m.OpenSecrets(secret.New(bytes.Clone(v.jobKey)))
	if err != nil {
		return err
	}
	made, err := m.made(secrets, v.which)
	if err == nil && v.made != "" && v.made != made {
		err = fmt.Errorf("the run makes %q, not %q", made, v.made)
	}
	return err
}

// made is what a vector says of the file that a run makes.
func (m *Manifest) made(secrets *Secrets, r Run) (string, error) {
	own, err := m.ForRun(r)
	if err != nil {
		return "", err
	}
	if err := m.RunSecrets(secrets, r); err != nil {
		return "", err
	}
	for i, v := range own.Volumes {
		if v.Create {
			return fmt.Sprintf("%s %s %x", v.Path, v.Pinned.UUID, secrets.Volumes[i].VolumeKey.Reveal()), nil
		}
	}
	return "", nil
}

func readVector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseVector(t *testing.T, b []byte) *vector {
	t.Helper()
	head, file, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		t.Fatal("no empty line after the header")
	}
	v := &vector{file: file, which: Run{Task: NoTask}}
	for l := range strings.SplitSeq(string(head), "\n") {
		name, value, _ := strings.Cut(l, ": ")
		var err error
		switch name {
		case "expect":
			v.expect = value
		case "comment":
			v.comment = value
		case "user":
			v.user = value
		case "argument":
			v.given = append(v.given, value)
		case "time":
			v.time, err = time.Parse(time.RFC3339, value)
		case "job-key":
			v.jobKey, err = hex.DecodeString(value)
		case "task":
			v.which.Task, err = strconv.ParseInt(value, 10, 32)
		case "attempt":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 32)
			v.which.Attempt = uint32(n)
		case "made":
			v.made = value
		default:
			t.Fatalf("unknown field %q", name)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return v
}

func writeVectors(t *testing.T) {
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(vectorDir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	id, alice, mallory, unknown, former := newIdentity(t), newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	write("identity.txt", []byte("# the node's identity: for these vectors only\n"+id.String()+"\n"))
	line := func(options string, s ssh.Signer) string {
		return options + " " + string(ssh.MarshalAuthorizedKey(s.PublicKey()))
	}
	write("allowed_signers", []byte("# for the vectors in this directory only\n"+
		line(`alice namespaces="cloister-job"`, alice)+line(`mallory namespaces="cloister-job"`, mallory)+
		line(`alice valid-before="20260101Z"`, former)))

	seal := func(s ssh.Signer, to age.Recipient, alter func(*Manifest)) []byte {
		m := testManifest(t)
		m.Signer = ssh.FingerprintSHA256(s.PublicKey())
		if alter != nil {
			alter(m)
		}
		payload, err := Payload(m, []byte(script))
		if err != nil {
			t.Fatal(err)
		}
		file, err := Encode(sbatchLines, m.Notice(), payload, []age.Recipient{to}, s)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	raw := func(payload string) []byte {
		file, err := Encode(nil, testManifest(t).Notice(), []byte(payload), []age.Recipient{id.Recipient()}, alice)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := seal(alice, id.Recipient(), nil)
	manifest, err := testManifest(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, with string) []byte { return []byte(replaceOnce(t, string(good), old, with)) }
	resigned := func(s ssh.Signer, namespace string) []byte {
		e, err := Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		if e.signature, err = sshsig.Sign(bytes.NewReader(e.signed), s, sshsig.HashSHA512, namespace); err != nil {
			t.Fatal(err)
		}
		file, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	// alice's client would not make such a file; anybody's own program may.
	otherNotice := func(alter func(*Manifest)) []byte {
		m := testManifest(t)
		m.Signer = ssh.FingerprintSHA256(alice.PublicKey())
		payload, err := Payload(m, []byte(script))
		if err != nil {
			t.Fatal(err)
		}
		alter(m)
		file, err := Encode(sbatchLines, m.Notice(), payload, []age.Recipient{id.Recipient()}, alice)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	several := &Runs{Tasks: []uint32{1, 3}, Attempts: 2}
	array := seal(alice, id.Recipient(), func(m *Manifest) { runSeveralTimes(m, several) })
	oneForAll, err := withRuns(t, several).marshal()
	if err != nil {
		t.Fatal(err)
	}
	week := now.AddDate(0, 0, 8)
	for name, v := range map[string]vector{
		"sealed":             {expect: "success", comment: "two volumes, an image, two secret files", file: good},
		"image_in_volume":    {expect: "success", comment: "an image in a volume", file: seal(alice, id.Recipient(), func(m *Manifest) { m.Image = &Image{Path: "/data/analysis.sif", Mount: "images/analysis.sif"} })},
		"file_missing":       {expect: "secrets", comment: "two secret files, and one name", file: seal(alice, id.Recipient(), func(m *Manifest) { m.Files = m.Files[:1] })},
		"image_in_results":   {expect: "manifest", comment: "an image in a volume that the job writes", file: raw(strings.Replace(string(manifest), imageOf(t), `"image":{"path":"/results/analysis.sif","sha256":"","size":0,"mount":""}`, 1) + "\n" + script)},
		"file_climbs":        {expect: "manifest", comment: "a secret file whose name leads elsewhere", file: raw(strings.Replace(string(manifest), `["pem",`, `["../step-key",`, 1) + "\n" + script)},
		"smallest":           {expect: "success", comment: "no #SBATCH line, no volume, no image, no argument", given: []string{}, file: smallest(t, alice, id.Recipient())},
		"ordinary":           {expect: "not sealed", comment: "an ordinary script", file: []byte(script)},
		"next_format":        {expect: "not sealed", comment: "a later version of the format", file: []byte(strings.ReplaceAll(string(good), terminator, marker+"2"))},
		"crlf":               {expect: "altered", comment: "CRLF line ends", file: []byte(strings.ReplaceAll(string(good), "\n", "\r\n"))},
		"after_end":          {expect: "altered", comment: "a command after the terminator", file: append(bytes.Clone(good), "id\n"...)},
		"sbatch_edited":      {expect: "altered", comment: "another #SBATCH line than was signed", file: edit("--mem=2G", "--mem=9G")},
		"sbatch_in_body":     {expect: "altered", comment: "a #SBATCH line after the first command", file: edit("exit 78\n", "exit 78\n#SBATCH --uid=0\n")},
		"pbs_in_body":        {expect: "altered", comment: "a #PBS line in the here-document", file: edit("-----END AGE", "#PBS -l nodes=4\n-----END AGE")},
		"hetjob":             {expect: "altered", comment: "a heterogeneous job", file: edit("#SBATCH --secure\n", "#SBATCH --secure\n#SBATCH hetjob\n")},
		"blank_in_armor":     {expect: "altered", comment: "an empty line before the age armor", file: edit("-----BEGIN AGE", "\n-----BEGIN AGE")},
		"wrong_namespace":    {expect: "altered", comment: "signed in the namespace file", file: resigned(alice, "file")},
		"unknown_signer":     {expect: "unknown signer", comment: "a key that is not registered", file: seal(unknown, id.Recipient(), nil)},
		"expired_signer":     {expect: "expired signer", comment: "a key registered until the end of 2025", file: seal(former, id.Recipient(), nil)},
		"resigned":           {expect: "other user", comment: "mallory signed alice's ciphertext anew and submits it", user: "mallory", file: resigned(mallory, Namespace)},
		"other_user":         {expect: "other user", comment: "alice's file submitted by mallory", user: "mallory", file: good},
		"other_node":         {expect: "other node", comment: "encrypted to another identity", file: seal(alice, newIdentity(t).Recipient(), nil)},
		"expired":            {expect: "expired", comment: "eight days after it was made", time: week, file: good},
		"other_arguments":    {expect: "other arguments", comment: "submitted with another argument", given: []string{"--fold", "6"}, file: good},
		"notice_edited":      {expect: "altered", comment: "a later expiry in clear than was signed", file: edit("'expires 2026", "'expires 2027")},
		"notice_expiry":      {expect: "manifest", comment: "signed with another expiry in clear than in the manifest", file: otherNotice(func(m *Manifest) { m.Expires = m.Expires.Add(time.Hour) })},
		"notice_arguments":   {expect: "manifest", comment: "signed with other arguments in clear than in the manifest", given: []string{"--fold", "6"}, file: otherNotice(func(m *Manifest) { m.Arguments = []string{"--fold", "6"} })},
		"other_cluster":      {expect: "other cluster", comment: "for another cluster", file: seal(alice, id.Recipient(), func(m *Manifest) { m.Cluster = "elsewhere" })},
		"other_class":        {expect: "other class", comment: "for on-demand nodes", file: seal(alice, id.Recipient(), func(m *Manifest) { m.Class = ClassOnDemand })},
		"wrong_job_key":      {expect: "secrets", comment: "the KMS answers with another key", jobKey: bytes.Repeat([]byte{8}, JobKeySize), file: good},
		"manifest_unknown":   {expect: "manifest", comment: "a manifest with an unknown field", file: raw(`{"more":1,` + string(manifest[1:]) + "\n" + script)},
		"manifest_duplicate": {expect: "manifest", comment: "a manifest with a field twice", file: raw(strings.Replace(string(manifest), `"user":"alice"`, `"user":"bob","user":"alice"`, 1) + "\n" + script)},
		"manifest_blank":     {expect: "manifest", comment: "a manifest with a blank", file: raw(strings.Replace(string(manifest), `,"user"`, `, "user"`, 1) + "\n" + script)},
		"array":              {expect: "success", comment: "task 3 of an array, requeued once", which: Run{3, 1}, made: madeOf(t, withRuns(t, several), Run{3, 1}), file: array},
		"array_other_task":   {expect: "other run", comment: "a task that the array does not have", which: Run{2, 0}, file: array},
		"array_as_one":       {expect: "other run", comment: "an array submitted as an ordinary job", file: array},
		"array_attempt":      {expect: "other run", comment: "requeued more often than it was sealed for", which: Run{3, 2}, file: array},
		"one_as_array":       {expect: "other run", comment: "an ordinary job submitted as an array", which: Run{1, 0}, file: good},
		"array_one_volume":   {expect: "manifest", comment: "an array whose tasks would make one file", file: raw(replaceOnce(t, string(oneForAll), "results-%a-%r.luks", "results-%r.luks") + "\n" + script)},
		"mount_etc":          {expect: "manifest", comment: "a volume mounted on /etc", file: raw(strings.Replace(string(manifest), `"mount":"/data"`, `"mount":"/etc"`, 1) + "\n" + script)},
	} {
		if v.given == nil {
			v.given = testManifest(t).Arguments
		}
		if v.user == "" {
			v.user = "alice"
		}
		if v.time.IsZero() {
			v.time = now
		}
		if v.jobKey == nil {
			v.jobKey = bytes.Repeat([]byte{7}, JobKeySize)
		}
		head := fmt.Sprintf("expect: %s\ncomment: %s\nuser: %s\ntime: %s\njob-key: %x\n", v.expect, v.comment, v.user, v.time.Format(time.RFC3339), v.jobKey)
		for _, a := range v.given {
			head += "argument: " + a + "\n"
		}
		if v.which != (Run{}) {
			head += fmt.Sprintf("task: %d\nattempt: %d\n", v.which.Task, v.which.Attempt)
		}
		if v.made != "" {
			head += "made: " + v.made + "\n"
		}
		write(name+".vector", slices.Concat([]byte(head+"\n"), v.file))
	}
}

func madeOf(t *testing.T, m *Manifest, r Run) string {
	made, err := m.made(testSecrets(), r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// imageOf is the image in the test manifest's encoding.
func imageOf(t *testing.T) string {
	b, err := json.Marshal(testManifest(t).Image)
	if err != nil {
		t.Fatal(err)
	}
	return `"image":` + string(b)
}

func smallest(t *testing.T, s ssh.Signer, to age.Recipient) []byte {
	m := testManifest(t)
	m.Signer = ssh.FingerprintSHA256(s.PublicKey())
	m.Volumes, m.Image, m.Arguments, m.Environment, m.Files = nil, nil, nil, nil, nil
	m.Stdout, m.Stderr = "/dev/null", "/dev/null"
	var err error
	if m.Secrets, err = SealSecrets(&Secrets{}, secret.New(bytes.Repeat([]byte{7}, JobKeySize)), m.Job); err != nil {
		t.Fatal(err)
	}
	payload, err := Payload(m, []byte("#!/bin/true\n"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := Encode(nil, m.Notice(), payload, []age.Recipient{to}, s)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
