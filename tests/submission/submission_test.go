// Package submission tests what happens on a login node, with Debian's own
// sbatch, srun and salloc and the plugin in their process. There is no
// controller: a submission that is not refused ends at its door.
package submission

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/sealed"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

const (
	conf = `ClusterName=login
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=1
MessageTimeout=1
AuthType=auth/munge
NodeName=n1 NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
`
	wentOn = "Unable to contact slurm controller"
	slow   = time.Minute // a client that Slurm does not answer tries again for minutes
)

// built is where the plugin and its library are, once a test needed them.
var built string

var build = sync.OnceValue(func() (err error) {
	if built, err = os.MkdirTemp("", "submission"); err != nil {
		return err
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"make", "-s", "-C", filepath.Join(top, "cgo/plugin"), "plugin", "OUT=" + built},
		{"make", "-s", "-C", top, "submit-library", "BIN=" + built},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return errors.New(strings.Join(args, " ") + ": " + string(out))
		}
	}
	return nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(status)
}

// lookAtSources has the go command run these tests again when a file has
// changed that a program which they start reads or is built from.
func lookAtSources(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"cgo/plugin", "spank", "sealed", "slurm"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			_, err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// login is a login node: a directory with its configuration and the user's files.
type login struct{ dir string }

func newLogin(t *testing.T, plugin string) login {
	t.Helper()
	l := login{t.TempDir()}
	l.write(t, "slurm.conf", conf)
	l.write(t, "plugstack.conf", "required "+plugin+"\n")
	l.write(t, "plain.sh", "#!/bin/sh\ntrue\n")
	l.write(t, "plain-secure.sh", "#!/bin/sh\n#SBATCH --secure\ntrue\n")
	job := seal(t, time.Now().Add(time.Hour), "--fold", "3")
	l.write(t, "job.sealed", job)
	l.write(t, "expired.sealed", seal(t, time.Now().Add(-time.Hour)))
	l.write(t, "altered.sealed", strings.Replace(job, "#SBATCH --", "#SBATCH  --", 1))
	return l
}

// seal makes a sealed job of which a login node can see the shape, the signature
// and what is in clear; what is encrypted matters to nobody here.
func seal(t *testing.T, expires time.Time, arguments ...string) string {
	t.Helper()
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
	m := sealed.Manifest{Expires: expires.UTC(), Arguments: arguments}
	file, err := sealed.Encode([]string{"#SBATCH --time=10"}, m.Notice(), []byte("sealed"), []age.Recipient{node.Recipient()}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(file)
}

func (l login) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// shell runs a command line of the user's and returns what it said. None
// succeeds: there is no controller.
func (l login) shell(t *testing.T, line string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
	cmd.Dir = l.dir
	cmd.Env = append(append(os.Environ(), "SLURM_CONF="+filepath.Join(l.dir, "slurm.conf")), env...)
	timer := time.AfterFunc(slow, func() { cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if e := (*exec.ExitError)(nil); !errors.As(err, &e) || e.ExitCode() != 1 {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func plugin(t *testing.T) string {
	t.Helper()
	lookAtSources(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(built, "cloister.so")
}

func TestWhatTheNodeWouldRefuseIsRefusedAtOnceInItsWords(t *testing.T) {
	l := newLogin(t, plugin(t))
	for line, want := range map[string]string{
		"sbatch --secure plain.sh":                    "cloister: refused in phase submit: this is an ordinary script, not a sealed job\ncloister: next: seal the script with cloister seal",
		"sbatch plain-secure.sh":                      "this is an ordinary script",
		"sbatch --secure --wrap true":                 "this is an ordinary script",
		"sbatch --secure altered.sealed":              "its signature does not match",
		"sbatch --secure expired.sealed":              "this sealed job expired on ",
		"sbatch --secure job.sealed --fold 4":         "the script was submitted with 2 arguments that are not the 2 it was sealed with",
		"sbatch --secure job.sealed":                  "the script was submitted with 0 arguments",
		"sbatch -J x -o job.sealed --secure plain.sh": "this is an ordinary script",
		"sbatch --secure -- plain.sh job.sealed":      "this is an ordinary script",
		"sbatch --secure -n1 : -n1 job.sealed":        "cannot be part of a heterogeneous job",
		"sbatch -n1 : --secure -n1 job.sealed":        "cannot be part of a heterogeneous job",
		"srun --secure true":                          "only batch jobs can be sealed",
		"salloc --secure true":                        "only batch jobs can be sealed",
	} {
		out := l.shell(t, line)
		if !strings.Contains(out, want) || strings.Contains(out, wentOn) {
			t.Errorf("%s: want %q:\n%s", line, want, out)
		}
	}
}

func TestASealedJobAndWhatCannotBeJudgedGoOn(t *testing.T) {
	l := newLogin(t, plugin(t))
	for line, want := range map[string]string{
		"sbatch --secure job.sealed --fold 3":                         "",
		"sbatch -o plain.sh -J name --secure -n1 job.sealed --fold 3": "",
		"sbatch --secure $PWD/job.sealed --fold 3":                    "",
		"sbatch --secure <plain.sh":                                   "cloister: not checked before submission, the node will: the script comes from standard input\n",
		"sbatch --secure <(cat plain.sh)":                             "is no file here\n",
		"mkdir -p d && sbatch -D d --secure job.sealed":               "in another directory\n",
		"ulimit -v 2000000; sbatch --secure plain.sh":                 "ulimit -v leaves too little room\n",
		"SLURM_JOB_ID=7 srun --secure true":                           "",
		"sbatch plain.sh":                                             "",
	} {
		out := l.shell(t, line)
		said := strings.Contains(out, "cloister")
		if !strings.Contains(out, want) || said != (want != "") || strings.Contains(out, "refused") {
			t.Errorf("%s: want %q and no refusal:\n%s", line, want, out)
		}
		if !strings.Contains(out, wentOn) && !strings.HasPrefix(line, "SLURM_JOB_ID") {
			t.Errorf("%s: it did not go on:\n%s", line, out)
		}
	}
}

func TestTheLibrariesAreLoadedWithSecureAlone(t *testing.T) {
	l := newLogin(t, plugin(t))
	const work, check = "cloister-secure.so", "cloister-submit.so"
	for line, want := range map[string][]string{
		"sbatch plain.sh": nil, "srun true": nil, "salloc true": nil, "SLURM_JOB_ID=7 srun true": nil,
		"SLURM_JOB_ID=7 srun --secure true": {work},
		"sbatch --secure job.sealed":        {work, check}, "srun --secure true": {work, check},
	} {
		out := l.shell(t, line, "LD_DEBUG=files")
		if !strings.Contains(out, "/cloister.so") {
			t.Fatalf("%s: the plugin itself is not among the files that the linker tells of:\n%s", line, out)
		}
		for _, library := range []string{work, check} {
			if got := strings.Contains(out, library); got != slices.Contains(want, library) {
				t.Errorf("%s: %s is loaded: %v", line, library, got)
			}
		}
	}
}

func TestWithoutALibraryASubmissionGoesOnWithOneLine(t *testing.T) {
	whole := filepath.Dir(plugin(t))
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	it, work := read("cloister.so"), read("cloister-secure.so")
	for name, files := range map[string]map[string]string{
		"the plugin alone":             {},
		"no check":                     {"cloister-secure.so": work},
		"a check that is no library":   {"cloister-secure.so": work, "cloister-submit.so": "no library"},
		"a check without the function": {"cloister-secure.so": work, "cloister-submit.so": it},
		"no library beside the plugin": {"cloister-secure.so": "no library"},
		"another version beside it":    {"cloister-secure.so": it},
	} {
		dir := t.TempDir()
		files["cloister.so"] = it
		for file, content := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		l := newLogin(t, filepath.Join(dir, "cloister.so"))
		out := l.shell(t, "sbatch --secure plain.sh")
		if !strings.Contains(out, wentOn) || strings.Count(out, "cloister: ") != 1 || !strings.Contains(out, "not checked before submission, the node will: ") {
			t.Errorf("%s: %s", name, out)
		}
	}
}
