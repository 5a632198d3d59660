// Command demo runs Cloister's main job on a real cluster and tells its story:
// a researcher's analysis of lung cancer patients goes through sbatch --secure,
// on a node that is locked for it, and comes back encrypted.
//
// Everything that it shows is checked; it exits with 1 at the first thing that
// is not as it says.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cloister/tests/analysis"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo: "+err.Error())
		os.Exit(1)
	}
	fmt.Printf("\nAll of it was as told. %s in all.\n", time.Since(began).Round(time.Second))
}

// node is where the secure job runs: the on-demand one, because there one sees
// the node before, during and after.
const node = cluster.S2

const script = `#!/bin/bash
#SBATCH --partition=secure
#SBATCH --nodelist=s2
#SBATCH --time=20
#CLOISTER class=on-demand
#CLOISTER volume=patients.luks:/data:ro
#CLOISTER volume=results.luks:/results:rw,create,size=64M
#CLOISTER image=analysis.sif
#CLOISTER output=/results/slurm-%j.out
set -e
echo "job $SLURM_JOB_ID on $SLURMD_NODENAME as $(id -un)"
ls /data
apptainer exec --bind /data,/results analysis.sif Rscript --vanilla /opt/analysis/analysis.R /data /results
ls -l /results
sleep 10
`

const openScript = `#!/bin/bash
#SBATCH --partition=batch
#SBATCH --time=20
#SBATCH --output=open.out
set -e
mkdir -p open/results
apptainer exec --bind $PWD/open/data:/data,$PWD/open/results:/results analysis.sif Rscript --vanilla /opt/analysis/analysis.R /data /results
`

// A story is the demo as far as it has been told.
type story struct {
	*deploy.Site
	marker string // words of a patient's record
	job    uint32
}

func run(ctx context.Context) error {
	say("A Slurm cluster with Cloister on it: head, login, s1 (dedicated), s2 (on-demand), n1 (ordinary)")
	tell("images are built once and cached; the first time takes a few minutes")
	images, err := analysis.Image(ctx)
	if err != nil {
		return err
	}
	site, err := deploy.Start(ctx, deploy.Release, func(f string, a ...any) { tell(fmt.Sprintf(f, a...)) })
	if err != nil {
		return err
	}
	defer site.Close()
	s := &story{Site: site}
	for _, chapter := range []func(context.Context, analysis.Paths) error{s.seal, s.attack, s.open, s.submit, s.during, s.results, s.after} {
		if err := chapter(ctx, images); err != nil {
			return err
		}
	}
	return nil
}

// seal: what the researcher does on her laptop.
func (s *story) seal(ctx context.Context, images analysis.Paths) error {
	say("1. Alice, on her laptop: a volume of the patients' data, and a sealed job")
	dir := s.LaptopDir("alice")
	if err := analysis.Dataset(ctx, filepath.Join(dir, "patients")); err != nil {
		return err
	}
	if err := s.findMarker(filepath.Join(dir, "patients")); err != nil {
		return err
	}
	if err := copyFile(images.SIF, filepath.Join(dir, "analysis.sif")); err != nil {
		return err
	}
	if err := s.Write("alice", "analysis.sh", script); err != nil {
		return err
	}
	show("head -n 3 patients/*.csv", s.marker+" …")
	for _, args := range [][]string{
		{"volume", "create", "patients.luks", "--from", "patients"},
		{"volume", "info", "patients.luks"},
		{"seal", "analysis.sh", "-o", "analysis.sealed"},
		{"verify", "analysis.sealed"},
	} {
		out, err := s.Laptop(ctx, "alice", args...)
		if err != nil {
			return err
		}
		show("cloister "+strings.Join(args, " "), out)
	}
	return s.Upload(ctx, "alice", "patients.luks", "analysis.sealed", "analysis.sif")
}

// findMarker takes a line of the data that must be seen nowhere.
func (s *story) findMarker(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.csv"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the data set has no CSV file: %v", err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 10 {
		return errors.New("the data set is empty")
	}
	s.marker = strings.TrimSpace(lines[5])
	return nil
}

// attack: what root on the shared file system sees.
func (s *story) attack(ctx context.Context, _ analysis.Paths) error {
	say("2. An attacker who is root on the file server reads both files")
	home := deploy.Home("alice")
	for _, cmd := range []string{
		"cd " + home + " && ls -l patients.luks analysis.sealed",
		"cd " + home + " && head -c 48 patients.luks | od -A d -c | head -n 3",
		"cd " + home + " && head -n 9 analysis.sealed",
	} {
		out, err := s.Output(ctx, cluster.Head, cmd)
		if err != nil {
			return err
		}
		show("root@head# "+cmd, out)
	}
	for _, words := range []string{s.marker, "Rscript", "/data"} {
		out, err := s.Output(ctx, cluster.Head, fmt.Sprintf("cd %s && grep -a -c -F %q patients.luks analysis.sealed || true", home, words))
		if err != nil {
			return err
		}
		show(fmt.Sprintf("root@head# grep -a -c -F %q patients.luks analysis.sealed", words), out)
		if out != "patients.luks:0\nanalysis.sealed:0\n" {
			return fmt.Errorf("the attacker found %q", words)
		}
	}
	return nil
}

// open: the same analysis without protection, to compare with.
func (s *story) open(ctx context.Context, _ analysis.Paths) error {
	say("3. For comparison: the same analysis in the open, on the ordinary node n1")
	if err := tarUp(ctx, s, "alice"); err != nil {
		return err
	}
	if err := s.Write("alice", "open.sh", openScript); err != nil {
		return err
	}
	if err := s.Upload(ctx, "alice", "open.sh"); err != nil {
		return err
	}
	job, err := s.Submit(ctx, "alice", "open.sh")
	if err != nil {
		return err
	}
	show("alice@login$ sbatch open.sh", fmt.Sprintf("Submitted batch job %d", job))
	for {
		e, err := s.Look(ctx, job)
		if err != nil {
			return err
		}
		if e.State == "COMPLETED" {
			return nil
		}
		if e.State != "PENDING" && e.State != "RUNNING" && e.State != "COMPLETING" {
			out, _ := s.Output(ctx, cluster.Head, "cat "+deploy.Home("alice")+"/open.out")
			return fmt.Errorf("the open job is %s: %s", e.State, out)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (s *story) submit(ctx context.Context, _ analysis.Paths) (err error) {
	say("4. Alice, on the login node: one option more than usual")
	if s.job, err = s.Submit(ctx, "alice", "--secure analysis.sealed"); err != nil {
		return err
	}
	show("alice@login$ sbatch --secure analysis.sealed", fmt.Sprintf("Submitted batch job %d", s.job))
	for {
		out, err := s.Output(ctx, node, "pgrep -u alice -x slurm_script >/dev/null && echo started || true")
		if err != nil {
			return err
		}
		if out != "" {
			return nil
		}
		e, err := s.Look(ctx, s.job)
		if err != nil {
			return err
		}
		if e.State != "PENDING" && e.State != "RUNNING" && e.State != "CONFIGURING" {
			end, _ := s.Wait(ctx, "alice", s.job, time.Minute)
			return fmt.Errorf("the job ended before it was seen: %s: %s", end.State, end.Output)
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
}

// during: the node while it belongs to the job.
func (s *story) during(ctx context.Context, _ analysis.Paths) error {
	say("5. During the job: the node belongs to it alone")
	for _, c := range []struct {
		node, as, cmd string
		want          string // must be in what it prints
		refused       bool   // must fail
	}{
		{cluster.Login, "alice", "timeout 5 bash -c '</dev/tcp/s2/22' 2>&1", "", true},
		{node, "root", "systemctl is-active ssh.service; true", "inactive", false},
		{node, "root", "nft list table inet cloister | grep -E 'hook (input|output|forward)'", "policy drop", false},
		{cluster.Login, "bob", fmt.Sprintf("timeout 20 srun -p secure -w %s --immediate=3 hostname 2>&1", node), "", true},
		// Whoever is root on the login node can be alice there. During a session
		// the packet filter keeps the step's launch from the node.
		{cluster.Login, "alice", fmt.Sprintf("timeout 60 srun --jobid=%d --overlap -n1 ls /data 2>&1", s.job), "launch failed", true},
		{node, "root", "ls -A /data 2>&1; true", "", false},
		{cluster.Login, "alice", "ls -A /data 2>&1; true", "", false},
		{node, "root", "dmsetup ls", "cloister-", false},
		{node, "root", "p=$(pgrep -u alice -x slurm_script); nsenter -t $p -m ls /data /results", "csv", false},
	} {
		var r cluster.Result
		var err error
		if c.as == "root" {
			r, err = s.Run(ctx, c.node, c.cmd)
		} else {
			r, err = s.RunAs(ctx, c.as, c.node, "cd; "+c.cmd)
		}
		if err != nil {
			return err
		}
		out := r.Stdout + r.Stderr
		show(fmt.Sprintf("%s@%s$ %s", c.as, c.node, c.cmd), out)
		switch {
		case c.refused && r.Exit == 0:
			return fmt.Errorf("%q worked on %s", c.cmd, c.node)
		case !strings.Contains(out, c.want):
			return fmt.Errorf("%q did not show %q", c.cmd, c.want)
		case strings.Contains(out, s.marker), c.want != "csv" && strings.Contains(out, ".csv"):
			return fmt.Errorf("%q on %s shows the data", c.cmd, c.node)
		}
	}
	return nil
}

// results: they come back encrypted and equal the open run.
func (s *story) results(ctx context.Context, _ analysis.Paths) error {
	say("6. The job ends; the results come back in an encrypted volume")
	end, err := s.Wait(ctx, "alice", s.job, 10*time.Minute)
	if err != nil {
		return err
	}
	show(fmt.Sprintf("alice@login$ cat slurm-%d.out      # Slurm's and Cloister's own words only", s.job), end.Output)
	if end.State != "COMPLETED" {
		return fmt.Errorf("the secure job is %s (%s)", end.State, end.ExitCode)
	}
	if err := s.Download(ctx, "alice", "results.luks"); err != nil {
		return err
	}
	out, err := s.Laptop(ctx, "alice", "volume", "extract", "results.luks", "--to", "results")
	if err != nil {
		return err
	}
	show("cloister volume extract results.luks --to results", out)
	dir := s.LaptopDir("alice")
	listing, err := exec.CommandContext(ctx, "ls", "-l", filepath.Join(dir, "results")).Output()
	if err != nil {
		return err
	}
	show("ls -l results", string(listing))
	return s.compare(ctx, filepath.Join(dir, "results"))
}

func (s *story) compare(ctx context.Context, secure string) error {
	out, err := s.Output(ctx, cluster.Head, "cd "+deploy.Home("alice")+"/open/results && ls")
	if err != nil {
		return err
	}
	names := strings.Fields(out)
	if len(names) < 3 {
		return fmt.Errorf("the open run left only %v", names)
	}
	plot := ""
	for _, name := range names {
		open := filepath.Join(s.LaptopDir("alice"), "open-"+name)
		if err := s.Get(ctx, cluster.Head, deploy.Home("alice")+"/open/results/"+name, open); err != nil {
			return err
		}
		a, errA := os.ReadFile(open)
		b, errB := os.ReadFile(filepath.Join(secure, name))
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%s differs from the open run", name)
		}
		tell(fmt.Sprintf("%-14s %6d bytes, equal to the open run byte for byte", name, len(b)))
		if filepath.Ext(name) == ".png" {
			plot = filepath.Join(secure, name)
		}
	}
	if plot == "" {
		return errors.New("there is no plot")
	}
	keep := filepath.Join(os.TempDir(), "cloister-demo-survival.png")
	if err := copyFile(plot, keep); err != nil {
		return err
	}
	tell("the plot is in " + keep)
	return nil
}

// after: nothing is left.
func (s *story) after(ctx context.Context, _ analysis.Paths) error {
	say("7. Afterwards: the node is as it was")
	for _, c := range []struct{ cmd, want string }{
		{"dmsetup ls", "No devices found\n"},
		{"losetup -l -n | wc -l", "0\n"},
		{"cat /proc/*/mountinfo 2>/dev/null | grep -c -e cloister-image -e ' /dev/dm-' || true", "0\n"},
		{"ls /run/cloister/sessions | wc -l", "0\n"},
		{"grep -c ^crypt /proc/keys || true", "0\n"},
		{"nft list tables | grep -c 'inet cloister' || true", "0\n"},
		{"timeout 30 sh -c 'until systemctl is-active -q ssh.service; do sleep 0.5; done'; systemctl is-active ssh.service", "active\n"},
	} {
		out, err := s.Output(ctx, node, c.cmd)
		if err != nil {
			return err
		}
		show("root@"+node+"# "+c.cmd, out)
		if out != c.want {
			return fmt.Errorf("%q printed %q, not %q", c.cmd, out, c.want)
		}
	}
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "timeout 5 bash -c '</dev/tcp/s2/22' && echo open")
	if err != nil {
		return err
	}
	show("alice@login$ </dev/tcp/s2/22", out)
	state, err := s.NodeState(ctx, node)
	if err != nil {
		return err
	}
	show("sinfo -n "+node, state)
	if state != "idle" {
		return fmt.Errorf("node %s is %s", node, state)
	}
	return nil
}
