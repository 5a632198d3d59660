package interop

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The vectors are sealed jobs behind a header and an empty line; identity.txt
// and allowed_signers beside them are the node's.
const vectors = "../../sealed/testdata/vectors"

const (
	beginSignature = "-----BEGIN SSH SIGNATURE-----\n"
	endSignature   = "-----END SSH SIGNATURE-----\n"
	beginAge       = "-----BEGIN AGE ENCRYPTED FILE-----\n"
	endAge         = "-----END AGE ENCRYPTED FILE-----\n"
)

// job cuts a vector's sealed job into what the signature covers, the
// signature, and the encrypted part, with nothing but text search.
func job(t *testing.T, name string) (signed, signature, encrypted string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	_, file, _ := strings.Cut(string(b), "\n\n")
	signed, rest, ok := strings.Cut(file, beginSignature)
	if !ok {
		t.Fatalf("%s has no signature", name)
	}
	body, _, _ := strings.Cut(rest, endSignature)
	_, rest, _ = strings.Cut(signed, beginAge)
	armored, _, ok := strings.Cut(rest, endAge)
	if !ok {
		t.Fatalf("%s has no encrypted part", name)
	}
	return signed, beginSignature + body + endSignature, beginAge + armored + endAge
}

func TestStockSSHKeygenVerifiesTheSignature(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Fatal("ssh-keygen is missing: apt-get install openssh-client")
	}
	verify := func(name, user, namespace, tail string) (string, error) {
		signed, signature, _ := job(t, name)
		sig := filepath.Join(t.TempDir(), "job.sig")
		if err := os.WriteFile(sig, []byte(signature), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", filepath.Join(vectors, "allowed_signers"), "-I", user, "-n", namespace, "-s", sig)
		cmd.Stdin = strings.NewReader(signed + tail)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, name := range []string{"sealed.vector", "smallest.vector"} {
		if out, err := verify(name, "alice", "cloister-job", ""); err != nil || !strings.Contains(out, "Good \"cloister-job\" signature for alice") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for _, c := range []struct{ name, user, namespace, tail string }{
		{"sealed.vector", "alice", "cloister-job", "\n"},
		{"sealed.vector", "alice", "file", ""},
		{"sealed.vector", "mallory", "cloister-job", ""},
		{"sbatch_edited.vector", "alice", "cloister-job", ""},
		{"unknown_signer.vector", "alice", "cloister-job", ""},
		{"wrong_namespace.vector", "alice", "cloister-job", ""},
	} {
		if out, err := verify(c.name, c.user, c.namespace, c.tail); err == nil {
			t.Errorf("%+v: ssh-keygen accepts it\n%s", c, out)
		}
	}
}

func TestTheStockAgeCommandOpensTheJob(t *testing.T) {
	age := filepath.Join(t.TempDir(), "age")
	if out, err := exec.Command("go", "build", "-o", age, "filippo.io/age/cmd/age").CombinedOutput(); err != nil {
		t.Fatalf("building the age command: %v\n%s", err, out)
	}
	open := func(name string) (string, error) {
		_, _, encrypted := job(t, name)
		cmd := exec.Command(age, "--decrypt", "-i", filepath.Join(vectors, "identity.txt"))
		cmd.Stdin = strings.NewReader(encrypted)
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &stderr
		err := cmd.Run()
		t.Log(stderr.String())
		return out.String(), err
	}
	out, err := open("sealed.vector")
	if err != nil {
		t.Fatal(err)
	}
	manifest, script, _ := strings.Cut(out, "\n")
	for _, want := range []string{`{"format":1,"job":"`, `"user":"alice"`, `"cluster":"demo"`, `"mount":"/data"`, `"cipher":"aes-xts-plain64"`, `"secrets":"`} {
		if !strings.Contains(manifest, want) {
			t.Errorf("the first line lacks %s:\n%s", want, manifest)
		}
	}
	if !strings.HasPrefix(script, "#!/bin/sh\n") {
		t.Errorf("script %q", script)
	}
	if out, err := open("other_node.vector"); err == nil {
		t.Errorf("opened a job that is encrypted to another node: %q", out)
	}
}

func TestShellsRunASealedJobAsAHintOnly(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors, "sealed.vector"))
	if err != nil {
		t.Fatal(err)
	}
	_, file, _ := strings.Cut(string(b), "\n\n")
	path := filepath.Join(t.TempDir(), "job.sealed")
	if err := os.WriteFile(path, []byte(file), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{path}, {"sh", path}, {"bash", path}, {"bash", "--posix", path}} {
		cmd := exec.Command(argv[0], argv[1:]...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 78 { // EX_CONFIG of sysexits.h
			t.Errorf("%q: %v, want exit status 78", argv, err)
		}
		if got := stderr.String(); stdout.Len() != 0 || got != "cloister: this job is sealed: submit me with sbatch --secure\n" {
			t.Errorf("%q: stdout %q, stderr %q", argv, &stdout, got)
		}
	}
}
