package submission

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// drive stands for slurmctld: it loads the plugin, gives it one job, and prints
// the verdict, what the user is told, and what became of the job.
const drive = `
slurm = { SUCCESS = 0, ERROR = -1, log_user = function(text) print("user: " .. text) end }
assert(dofile(arg[1]) == slurm.SUCCESS)
local script = arg[2] ~= "" and io.open(arg[2]):read("a") or nil
local env = arg[3] ~= "" and { [0] = "OTHER=1", arg[3] } or nil
local job = { script = script, spank_job_env = env, partition = arg[4] ~= "" and arg[4] or nil, shared = 65534 }
local verdict = slurm_job_submit(job, {}, 1000)
print(string.format("verdict %d partition %s shared %d", verdict, job.partition, job.shared))
assert(slurm_job_modify({}, {}, {}, 0) == slurm.SUCCESS)
`

func TestTheControllersPluginSendsSealedJobsToTheSecurePartitionAndRefusesOthers(t *testing.T) {
	l := newLogin(t, plugin(t))
	l.write(t, "drive.lua", drive)
	b, err := os.ReadFile(l.dir + "/job.sealed")
	if err != nil {
		t.Fatal(err)
	}
	l.write(t, "cut.sealed", string(b[:len(b)-1]))
	top, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const secure = "SLURM_SPANK__SLURM_SPANK_OPTION_cloister_secure=(null)"
	const whole, as = 0, 65534 // shared: exclusive, and what Slurm has when nobody says
	for _, c := range []struct {
		script, option, partition string
		verdict                   int
		ends                      string // the job's partition
		shared                    int
		told                      string
	}{
		{"job.sealed", secure, "", 0, "secure", whole, ""},
		{"job.sealed", secure, "secure", 0, "secure", whole, ""},
		{"job.sealed", secure, "normal", -1, "normal", as, "take no --secure job"},
		{"job.sealed", secure, "secure,normal", -1, "secure,normal", as, "take no --secure job"},
		{"job.sealed", "", "", -1, "nil", as, "submit it with sbatch --secure"},
		{"plain.sh", secure, "", -1, "nil", as, "this is an ordinary script, not a sealed job"},
		{"cut.sealed", secure, "", -1, "nil", as, "this is an ordinary script"},
		{"", secure, "", -1, "nil", as, "only batch jobs can be sealed"},
		{"plain.sh", "", "", 0, "nil", as, ""},
		{"plain.sh", "", "normal", 0, "normal", as, ""},
		{"plain.sh", "", "normal,secure", -1, "normal,secure", as, "run sealed jobs only"},
		{"", "", "", 0, "nil", as, ""},
		{"plain.sh", "SLURM_SPANK__SLURM_SPANK_OPTION_other_secure=", "", 0, "nil", as, ""},
	} {
		cmd := exec.CommandContext(t.Context(), "lua5.4", "drive.lua", top+"/../../slurm/job_submit.lua", c.script, c.option, c.partition)
		cmd.Dir = l.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%+v: %v\n%s", c, err, out)
		}
		want := fmt.Sprintf("verdict %d partition %s shared %d\n", c.verdict, c.ends, c.shared)
		if !strings.HasSuffix(string(out), want) || !strings.Contains(string(out), c.told) || strings.Contains(string(out), "user: ") != (c.told != "") {
			t.Errorf("%+v:\n%s", c, out)
		}
	}
}
