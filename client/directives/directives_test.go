package directives

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/sealed"
)

const ordinary = `#!/bin/bash
# Survival of the patients
#SBATCH --job-name=survival --mem=2G
#CLOISTER volume=patients.luks:/data:ro

#SBATCH -N 1 -n 4
#CLOISTER volume=/shared/alice/results.luks:/results:rw,create,size=1G
#CLOISTER image=analysis.sif
#CLOISTER output=/results/slurm-%j.out
#CLOISTER expires=12h
#CLOISTER env=OMP_NUM_THREADS=2
set -e
#SBATCH --nodes=9
apptainer exec analysis.sif analyse
`

func TestAnOrdinaryScriptIsRead(t *testing.T) {
	s, err := Parse([]byte(ordinary))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.SBATCH, []string{"#SBATCH --job-name=survival --mem=2G", "#SBATCH -N 1 -n 4"}) {
		t.Errorf("%q", s.SBATCH)
	}
	want := []Volume{
		{Line: 4, Path: "patients.luks", Mount: "/data", Mode: "ro"},
		{Line: 7, Path: "/shared/alice/results.luks", Mount: "/results", Mode: "rw", Create: true, Size: 1 << 30},
	}
	if !slices.Equal(s.Volumes, want) {
		t.Errorf("%+v", s.Volumes)
	}
	if s.Image == nil || s.Image.Path != "analysis.sif" || s.Output != "/results/slurm-%j.out" || s.Expires != 12*time.Hour || s.Environment["OMP_NUM_THREADS"] != "2" {
		t.Errorf("%+v", s)
	}
}

func TestALineThatIsNotUnderstoodIsRefusedWithAdvice(t *testing.T) {
	for _, c := range []struct{ line, cause, next string }{
		{"#CLOISTER volme=a:/b:ro", `did you mean "volume"?`, "volume=patients.luks:/data:ro"},
		{"#CLOISTER Output=/results/x", `did you mean "output"?`, "output=/results"},
		{"#CLOISTER network=yes", "there are volume, image", "volume="},
		{"#cloister volume=a:/b:ro", `begins with "#CLOISTER " exactly`, "#CLOISTER volume="},
		{"# CLOISTER volume=a:/b:ro", `begins with "#CLOISTER " exactly`, "#CLOISTER volume="},
		{"#CLOISTERvolume=a:/b:ro", `begins with "#CLOISTER " exactly`, "#CLOISTER volume="},
		{"  #CLOISTER volume=a:/b:ro", `begins with "#CLOISTER " exactly`, "#CLOISTER volume="},
		{"#CLOISTER volume", "wants a value", "volume="},
		{"#CLOISTER volume=", "wants a value", "volume="},
		{"#CLOISTER volume=a.luks", "PATH:MOUNT:ro", "volume="},
		{"#CLOISTER volume=a.luks:/data", "PATH:MOUNT:ro", "volume="},
		{"#CLOISTER volume=a.luks:/data:", `"" is neither ro nor rw`, "volume="},
		{"#CLOISTER volume=a.luks:/data:rx", "neither ro nor rw", "volume="},
		{"#CLOISTER volume=a.luks:/data:ro,create,size=1G", "must be rw", "create"},
		{"#CLOISTER volume=a.luks:/data:rw,create", "wants a size", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,size=1G", "go with create", "create"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=1g", "is no size", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=1M", "out of bounds", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=+1G", "is no size", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=1G,size=2G", "repeated", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,integrity=none", "go with create", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=1G,integrity=none,integrity=none", "repeated", "size=1G"},
		{"#CLOISTER volume=a.luks:/data:rw,create,size=1G,integrity=sha1", "integrity=none", "size=1G"},
		{"#CLOISTER volume=../a.luks:/data:ro", "working directory", "volume="},
		{"#CLOISTER volume=a.luks:/etc:ro", "belongs to the system", "/data"},
		{"#CLOISTER volume=a.luks:data:ro", "not an absolute path", "/data"},
		{"#CLOISTER volume=patients.luks:/x:ro", "given twice", "leave one"},
		{"#CLOISTER volume=b.luks:/data:ro", "used twice", "of its own"},
		{"#CLOISTER volume=b.luks:/data/x:ro", "lie in each other", "of its own"},
		{"#CLOISTER image=a.sif:", "empty place", "image.sif"},
		{"#CLOISTER image=a.sif:/usr/a.sif", "belongs to the system", "image.sif"},
		{"#CLOISTER image=a.sif:/data/a.sif", "lie in each other", "of its own"},
		{"#CLOISTER image=a.sif:../a.sif", "working directory", "image.sif"},
		{"#CLOISTER secret=key.pem", "secret wants NAME:FILE", "secret=pem:key.pem"},
		{"#CLOISTER secret=pem:", "secret wants NAME:FILE", "secret=pem:key.pem"},
		{"#CLOISTER secret=../pem:key.pem", "is no name", "secret=pem:key.pem"},
		{"#CLOISTER secret=:key.pem", "is no name", "secret=pem:key.pem"},
		{"#CLOISTER output=results/x", "not an absolute path", "%j is the job id"},
		{"#CLOISTER output=/results/%u", "after %", "%j is the job id"},
		{"#CLOISTER class=any", "neither dedicated nor on-demand", "class=on-demand"},
		{"#CLOISTER expires=1w", "is no lifetime", "7d"},
		{"#CLOISTER expires=9999d", "too long", "7d"},
		{"#CLOISTER env=X", "NAME=VALUE", "OMP_NUM_THREADS"},
		{"#CLOISTER env=SLURM_JOB_ID=1", "not for jobs to set", "OMP_NUM_THREADS"},
		{"#CLOISTER env=BASH_ENV=x", "not for jobs to set", "OMP_NUM_THREADS"},
		{"#CLOISTER env=X=a\tb", "control character", "OMP_NUM_THREADS"},
		{"#CLOISTER output=/results/%a.%q", "after %", "%a the id and task"},
		{"#CLOISTER requeue=x", "not how often", "requeue=1"},
		{"#CLOISTER requeue=-1", "not how often", "requeue=1"},
		{"#CLOISTER requeue=01", "not how often", "requeue=1"},
		{"#CLOISTER requeue=1024", "not how often", "requeue=1"},
		{"#SBATCH --array=", "no task's number", "--array=1-10"},
		{"#SBATCH --array", "no task's number", "--array=1-10"},
		{"#SBATCH --arr=1-x", "no task's number", "--array=1-10"},
		{"#SBATCH --array=[1-3]", "no task's number", "--array=1-10"},
		{"#SBATCH --array=1,,2", "no task's number", "--array=1-10"},
		{"#SBATCH --array=-3", "no task's number", "--array=1-10"},
		{"#SBATCH --array=+3", "no task's number", "--array=1-10"},
		{"#SBATCH --array=4000001", "no task's number", "--array=1-10"},
		{"#SBATCH -a 3-1", "no range", "--array=1-10"},
		{"#SBATCH -a1-3:0", "no range", "--array=1-10"},
		{"#SBATCH -a1:2", "no range", "--array=1-10"},
		{"#SBATCH --array=1-3%0", "how many tasks", "--array=1-10"},
		{"#SBATCH --array=1-3%", "how many tasks", "--array=1-10"},
		{"#SBATCH --array=0-1024", "more than 1024 tasks", "--array=1-10"},
		{"#SBATCH --array=0-4000000", "more than 1024 tasks", "--array=1-10"},
		{"#SBATCH --array=1-3 --array=4", "given twice", "leave one"},
		{"#SBATCH --mem=1G --nodes=2", `one node, this asks for "2"`, "--nodes=1"},
		{"#SBATCH --nodes 1-2", "one node", "--nodes=1"},
		{"#SBATCH -N2", "one node", "--nodes=1"},
		{"#SBATCH -N 2", "one node", "--nodes=1"},
		{"#SBATCH --requeue", "does not let a sealed job run again", "#CLOISTER requeue=1"},
		{"#SBATCH --mem=1G --requ", "does not let a sealed job run again", "#CLOISTER requeue=1"},
		{"#SBATCH --get-user-env", "is not served", "in the script"},
		{"#SBATCH hetjob", "heterogeneous", "one job component"},
		{"#SBATCH --comment=Größe", "printable ASCII", "printable ASCII"},
		{"#SBATCH\t--mem=1G", "does not start with", "--option=value"},
		{"#SLURM --mem=1G", "not served", "#SBATCH"},
		{"#PBS -l nodes=1", "no effect", "#SBATCH"},
	} {
		script := "#!/bin/sh\n#CLOISTER volume=patients.luks:/data:ro\n" + c.line + "\ntrue\n"
		_, err := Parse([]byte(script))
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if e.Line != 3 || !strings.Contains(e.Cause, c.cause) || !strings.Contains(e.Next, c.next) || strings.Contains(e.Error(), "\n") {
			t.Errorf("%q:\n%v\nnext: %s", c.line, e, e.Next)
		}
	}
}

func TestTheTasksOfAnArrayAreThoseOfSbatch(t *testing.T) {
	for line, want := range map[string][]uint32{
		"--array=1-3": {1, 2, 3}, "--array 7": {7}, "-a 0,6,16-18": {0, 6, 16, 17, 18}, "-a0-15:4": {0, 4, 8, 12}, `--arr="1,3,5,7"`: {1, 3, 5, 7},
		"--array=1-7:2,2": {1, 2, 3, 5, 7}, "--array=3,1-3%2": {1, 2, 3}, "--ar='0-0'": {0}, "--array=3999999-4000000": {3999999, 4000000}, "--array=01-02": {1, 2},
	} {
		s, err := Parse([]byte("#!/bin/sh\n#SBATCH " + line + "\n#CLOISTER volume=p.luks:/data:ro\n#CLOISTER volume=r-%a.luks:/results:rw,create,size=1G\n"))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if !slices.Equal(s.Tasks, want) || s.Runs().Attempts != 1 {
			t.Errorf("%s: %v", line, s.Tasks)
		}
	}
}

func TestAJobThatRunsSeveralTimesWritesAVolumeForEachRun(t *testing.T) {
	const array, requeue, both = "#SBATCH --array=1-2\n", "#CLOISTER requeue=2\n", "#SBATCH --array=1-2\n#SBATCH --requeue\n#CLOISTER requeue=1\n"
	volume := func(v string) string { return "#CLOISTER volume=" + v + "\n" }
	for _, c := range []struct{ lines, cause, next string }{
		{array + volume("r-%a.luks:/results:rw,create,size=1G"), "", ""},
		{requeue + volume("r-%r.luks:/results:rw,create,size=1G"), "", ""},
		{both + volume("r-%a-%r.luks:/results:rw,create,size=1G"), "", ""},
		{requeue + volume("old.luks:/results:rw"), "", ""},
		{"#CLOISTER requeue=0\n" + volume("100%%.luks:/results:rw,create,size=1G"), "", ""},
		{"#CLOISTER requeue=0\n#SBATCH --no-requeue\n", "", ""},
		{array + volume("r.luks:/results:rw,create,size=1G"), "lacks %a", "results-%a.luks"},
		{array + volume("r.luks:/results:rw"), "cannot write to one volume", "results-%a.luks"},
		{requeue + volume("r.luks:/results:rw,create,size=1G"), "lacks %r", "results-%r.luks"},
		{both + volume("r-%a.luks:/results:rw,create,size=1G"), "lacks %r", "results-%a-%r.luks"},
		{volume("r-%a.luks:/results:rw,create,size=1G"), "this job is none", ""},
		{volume("r-%r.luks:/results:rw,create,size=1G"), "this one may not", ""},
		{volume("r-%j.luks:/results:rw,create,size=1G"), "after % comes one of a r %", ""},
		{array + volume("p-%a.luks:/data:ro"), "only a volume that the job makes", "as it is"},
		{requeue + "#SBATCH --no-requeue\n", "contradicts line 2", "leave one"},
		{requeue + requeue, "given twice", "leave one"},
		{"#SBATCH --array=1-600\n#CLOISTER requeue=1\n", "at most 1024 runs", "several jobs"},
		{"#SBATCH --requeue\n#CLOISTER requeue=0\n", "does not let", "requeue=1"},
	} {
		_, err := Parse([]byte("#!/bin/sh\n" + c.lines))
		if c.cause == "" {
			if err != nil {
				t.Errorf("%q: %v", c.lines, err)
			}
			continue
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Line < 2 || !strings.Contains(e.Cause, c.cause) || !strings.Contains(e.Next, c.next) {
			t.Errorf("%q: %v", c.lines, err)
		}
	}
}

func TestAScriptThatSlurmCouldNotRunIsRefused(t *testing.T) {
	for name, script := range map[string]string{
		"empty":            "",
		"no interpreter":   "echo hello\n",
		"Windows":          "#!/bin/sh\r\ntrue\r\n",
		"byte order mark":  "\xef\xbb\xbf#!/bin/sh\n",
		"a program":        "#!\x7fELF\x00",
		"too large":        "#!/bin/sh\n" + strings.Repeat("#\n", MaxScript/2),
		"late line":        "#!/bin/sh\ntrue\n#CLOISTER volume=a:/b:ro\n",
		"two images":       "#!/bin/sh\n#CLOISTER image=a.sif\n#CLOISTER image=b.sif\n",
		"two outputs":      "#!/bin/sh\n#CLOISTER output=/a/b\n#CLOISTER output=/a/c\n",
		"a secret twice":   "#!/bin/sh\n#CLOISTER secret=a:b\n#CLOISTER secret=a:c\n",
		"image in results": "#!/bin/sh\n#CLOISTER image=/results/a.sif\n#CLOISTER volume=r.luks:/results:rw\n",
		"many secrets":     "#!/bin/sh\n" + manySecrets(17),
		"a variable twice": "#!/bin/sh\n#CLOISTER env=A=1\n#CLOISTER env=A=2\n",
	} {
		if _, err := Parse([]byte(script)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func manySecrets(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "#CLOISTER secret=s%d:file\n", i)
	}
	return b.String()
}

func TestAnImageInAVolumeAndSecretsAreRead(t *testing.T) {
	s, err := Parse([]byte("#!/bin/sh\n#CLOISTER image=/software/v2/a.sif:images/a.sif\n#CLOISTER volume=s.luks:/software:ro\n" +
		"#CLOISTER volume=d.luks:/data:ro\n#CLOISTER secret=pem:C:/keys/a b.pem\n" + manySecrets(15)))
	if err != nil {
		t.Fatal(err)
	}
	if v := s.ImageVolume(); v == nil || v.Path != "s.luks" || s.Image.Mount != "images/a.sif" {
		t.Errorf("%+v in %+v", s.Image, v)
	}
	if len(s.Secrets) != 16 || s.Secrets[0] != (Secret{Line: 5, Name: "pem", File: "C:/keys/a b.pem"}) {
		t.Errorf("%+v", s.Secrets)
	}
	if s, err := Parse([]byte("#!/bin/sh\n#CLOISTER image=/software/a.sif\n#CLOISTER volume=s.luks:/soft:ro\n")); err != nil || s.ImageVolume() != nil {
		t.Errorf("%v", err)
	}
}

func TestOrdinaryOptionsAreServed(t *testing.T) {
	for _, line := range []string{
		"#SBATCH --nodes=1", "#SBATCH -N1", "#SBATCH --nodes 1-1", `#SBATCH --nodes="1"`, "#SBATCH --account=x", "#SBATCH -A array",
		"#SBATCH --no-requeue", "#SBATCH --mem=1G # not --array", "#SBATCH --nodelist=s1", "#SBATCH -n 4 --cpus-per-task=2",
	} {
		if _, err := Parse([]byte("#!/bin/sh\n" + line + "\n")); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	// A remark about Cloister is no line for it.
	if _, err := Parse([]byte("#!/bin/sh\n# Cloister seals this job\n")); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(ordinary))
	f.Add([]byte("#!/bin/sh\n#CLOISTER volume=a:/b:rw,create,size=99999999T\n"))
	f.Add([]byte("#!/bin/sh\n#SBATCH --array=0-15:4,1%2\n#CLOISTER requeue=1\n#CLOISTER volume=a-%a-%r:/b:rw,create,size=1G\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("not an *Error: %v", err)
			}
			return
		}
		for _, v := range s.Volumes {
			if v.Path == "" || v.Mount == "" || v.Size < 0 || v.Create != (v.Size > 0) {
				t.Fatalf("%+v", v)
			}
		}
		if n := s.Runs().Count(); n < 1 || n > sealed.MaxRuns || !slices.IsSorted(s.Tasks) {
			t.Fatalf("%d runs of %v", n, s.Tasks)
		}
	})
}
