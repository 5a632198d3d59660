package spank

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/sealed"
)

const vectors = "../sealed/testdata/vectors"

// vector is a test vector of docs/format.md, and how it is submitted.
func vector(t *testing.T, name string) (header map[string]string, file string, arguments []string, now time.Time) {
	t.Helper()
	path := filepath.Join(vectors, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, file, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		t.Fatalf("%s has no header", path)
	}
	header = map[string]string{}
	for l := range strings.SplitSeq(head, "\n") {
		name, value, _ := strings.Cut(l, ": ")
		if name == "argument" {
			arguments = append(arguments, value)
		}
		header[name] = value
	}
	if now, err = time.Parse(time.RFC3339, header["time"]); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return header, file, arguments, now
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryVectorIsJudgedAsByTheNodeOrLeftToIt takes the vectors' expectations:
// what a node finds before it decrypts is refused with the same kind.
func TestEveryVectorIsJudgedAsByTheNodeOrLeftToIt(t *testing.T) {
	seen := map[string]error{
		"not sealed": sealed.ErrNotSealed, "altered": sealed.ErrAltered,
		"unknown signer": sealed.ErrUnknownSigner, "expired signer": sealed.ErrExpiredSigner,
		"expired": sealed.ErrExpired, "other arguments": sealed.ErrOtherArguments,
	}
	files, err := filepath.Glob(filepath.Join(vectors, "*.vector"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	refused := 0
	for _, path := range files {
		header, file, arguments, at := vector(t, filepath.Base(path))
		script := write(t, "job.sealed", file)
		err = Check(Submission{Program: "sbatch", Arguments: append([]string{"sbatch", "--secure", script}, arguments...), First: 2,
			User: header["user"], Signer: filepath.Join(vectors, "allowed_signers"), Now: at})
		want := seen[header["expect"]]
		// That a key signs for another user is seen without the manifest.
		if header["expect"] == "other user" && errors.Is(err, sealed.ErrOtherUser) {
			continue
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", filepath.Base(path), err, want)
		}
		if want != nil {
			refused++
		}
	}
	if refused < 5 {
		t.Errorf("%d vectors refused: too few to show anything", refused)
	}
}

func TestTheScriptIsTheOneThatSbatchTakes(t *testing.T) {
	_, good, _, at := vector(t, "smallest.vector")
	job, plain := write(t, "job.sealed", good), write(t, "plain.sh", "#!/bin/sh\ntrue\n")
	t.Chdir(filepath.Dir(job))
	fifo := filepath.Dir(job)
	for name, c := range map[string]struct {
		args  []string
		first int
		want  string // part of the error; "" for none
		see   bool   // an UnseenError
	}{
		"the script":            {[]string{"--secure", job}, 2, "", false},
		"with arguments":        {[]string{"--secure", job, plain, "--wrap=x"}, 2, "2 arguments that are not the 0", false},
		"behind a value":        {[]string{"--secure", "-o", plain, job}, 4, "", false},
		"relative":              {[]string{"--secure", "job.sealed"}, 2, "", false},
		"an ordinary script":    {[]string{"--secure", plain}, 2, "ordinary script", false},
		"wrapped":               {[]string{"--secure", "--wrap=true"}, 3, "ordinary script", false},
		"wrapped, in two words": {[]string{"--secure", "--wrap", "true"}, 4, "ordinary script", false},
		"standard input":        {[]string{"--secure"}, 2, "standard input", true},
		"another directory":     {[]string{"--secure", "-D", "/tmp", "job.sealed"}, 4, "another directory", true},
		"its long form":         {[]string{"--secure", "--chdir=/tmp", "job.sealed"}, 3, "another directory", true},
		"absolute all the same": {[]string{"--secure", "--chdir=/tmp", job}, 3, "", false},
		"in the PATH":           {[]string{"--secure", "nowhere.sealed"}, 2, "no file here", true},
		"not a file":            {[]string{"--secure", fifo}, 2, "no file here", true},
		"heterogeneous":         {[]string{"--secure", ":", "-n1", job}, 2, "heterogeneous", false},
		"its second component":  {[]string{"-n1", ":", "--secure", job}, 3, "heterogeneous", false},
		"a colon for the job":   {[]string{"--secure", job, ":"}, 2, "1 arguments", false},
		"no index":              {[]string{"--secure", job}, 0, "does not tell", true},
		"an index beyond":       {[]string{"--secure", job}, 9, "does not tell", true},
	} {
		err := Check(Submission{Program: "sbatch", Arguments: append([]string{"sbatch"}, c.args...), First: c.first, Signer: filepath.Join(vectors, "none"), Now: at})
		u := (*UnseenError)(nil)
		switch {
		case c.want == "" && err == nil:
		case err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) || errors.As(err, &u) != c.see:
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestWithoutAListTheSignatureIsCheckedAllTheSame(t *testing.T) {
	header, file, arguments, at := vector(t, "unknown_signer.vector")
	if header["expect"] != "unknown signer" {
		t.Fatal("the vector is another")
	}
	check := func(file, list string) error {
		return Check(Submission{Program: "sbatch", Arguments: append([]string{"sbatch", write(t, "job", file)}, arguments...), First: 1, User: "alice", Signer: list, Now: at})
	}
	if err := check(file, "missing"); err != nil {
		t.Errorf("who may sign is not known here, yet: %v", err)
	}
	bad := strings.Replace(file, "#SBATCH --", "#SBATCH  --", 1)
	if bad == file {
		t.Fatal("the test changes nothing")
	}
	if err := check(bad, "missing"); !errors.Is(err, sealed.ErrAltered) {
		t.Errorf("altered: %v", err)
	}
	late := Submission{Program: "sbatch", Arguments: append([]string{"sbatch", write(t, "job", file)}, arguments...), First: 1, Signer: "missing", Now: at.AddDate(1, 0, 0)}
	if err := Check(late); !errors.Is(err, sealed.ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	garbled := write(t, "allowed_signers", "not a line\n")
	u := (*UnseenError)(nil)
	if err := check(file, garbled); !errors.As(err, &u) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a list that cannot be read: %v", err)
	}
	if err := check(bad, garbled); !errors.Is(err, sealed.ErrAltered) {
		t.Errorf("altered, and a list that cannot be read: %v", err)
	}
}

func TestOnlyBatchJobsCanBeSealed(t *testing.T) {
	for _, program := range []string{"srun", "salloc"} {
		r := (*sealed.Refusal)(nil)
		if err := Check(Submission{Program: program}); !errors.As(err, &r) || r.Cause != "only batch jobs can be sealed" {
			t.Errorf("%s: %v", program, err)
		}
	}
}
