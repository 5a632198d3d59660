package attacks

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onLaunches are attempts to run something on a secure node without a sealed
// job.
var onLaunches = []Attack{
	{Number: 1, Who: "A4 A6", Name: "a user submits an unsigned script with --secure", Control: withoutPlugin(unsigned("batch", cluster.N1)),
		Try: every(variant{"dedicated", unsigned("secure", cluster.S1)}, variant{"on-demand", unsigned("secure", cluster.S2)})},
	{Number: 2, Who: "A1 A2 A4", Name: "a user, root and who controls Slurm launch something else than a sealed job on a dedicated node", Long: true,
		Control: launches("batch", cluster.N1), Try: refusedLaunches},
	{Number: 2, Who: "A2", Name: "who controls Slurm has a node load a configuration without the plugin", Long: true, Control: configless(cluster.N1, "batch", takeConfiguration), Try: configless(cluster.S1, "secure", nil)},
}

// unsigned submits an ordinary script as a sealed job.
func unsigned(partition, node string) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		mark := "/var/tmp/plain-ran"
		if _, err := s.OutputAs(ctx, "alice", cluster.Login, `printf '#!/bin/sh\ntouch `+mark+`\n' > plain.sh`); err != nil {
			return err
		}
		err := refused(ctx, s, "alice", "--secure -p "+partition+" -w "+node+" plain.sh", "not a sealed job")
		if ran, runErr := s.Run(ctx, node, "rm "+mark); runErr != nil {
			return runErr
		} else if ran.Exit == 0 {
			return got("the unsigned script ran")
		}
		return err
	}
}

// withoutPlugin makes an attack where --secure means nothing.
func withoutPlugin(attack func(context.Context, *deploy.Site) error) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		if _, err := s.Output(ctx, cluster.N1, "mv /etc/slurm/plugstack.conf /root/"); err != nil {
			return err
		}
		defer s.Run(context.WithoutCancel(ctx), cluster.N1, "mv /root/plugstack.conf /etc/slurm/")
		return attack(ctx, s)
	}
}

// A form is one way to launch something. Its script has the words NODE,
// PARTITION and MARK, a file that it tries to make on the node. It ends when
// the launch has.
type form struct {
	name   string
	who    string // "" is root
	node   string // where the script runs
	script string
}

// waited waits for a job, whose number the script has in $j.
const waited = `; for i in $(seq 100); do squeue -h -j "$j" 2>/dev/null | grep -q . || break; sleep 0.2; done`

var forms = []form{
	{"sbatch", "alice", cluster.Login, `j=$(sbatch --parsable -o /dev/null -p PARTITION -w NODE --wrap "touch MARK")` + waited},
	{"srun", "alice", cluster.Login, `srun -p PARTITION -w NODE touch MARK`},
	{"salloc", "alice", cluster.Login, `salloc -p PARTITION -w NODE srun touch MARK`},
	// The submitting side's plugin is loaded by the submitter's will alone.
	{"SLURM_CONF", "alice", cluster.Login, `cp /etc/slurm/slurm.conf own.conf; SLURM_CONF=$PWD/own.conf srun -p PARTITION -w NODE --export=ALL,SLURM_CONF=$PWD/own.conf touch MARK`},
	{"SLURM_CONF_SERVER", "alice", cluster.Login, `SLURM_CONF_SERVER=login:6817 srun -p PARTITION -w NODE --export=ALL touch MARK`},
	{"sbatch by root", "", cluster.Login, `cd /tmp; j=$(sbatch --parsable -o /dev/null -p PARTITION -w NODE --wrap "touch MARK")` + waited},
	{"srun by root", "", cluster.Login, `srun -p PARTITION -w NODE touch MARK`},
	{"salloc by root", "", cluster.Login, `salloc -p PARTITION -w NODE srun touch MARK`},
	// From the login node: the packet filter lets a step answer no other.
	{"--no-allocate", "", cluster.Login, `srun --no-allocate -n1 -w NODE touch MARK`},
	{"moved by scontrol update", "", cluster.Head, `cd /tmp; j=$(sbatch --parsable -H -p batch -o /dev/null --wrap "touch MARK"); for i in $(seq 10); do scontrol update jobid=$j partition=PARTITION reqnodelist=NODE && scontrol release $j && break; sleep 1; done` + waited + `; scancel $j`},
}

// launches tries every form on a node and looks which of them left its mark.
func launches(partition, node string) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		var t tally
		for _, f := range forms {
			_, err := f.launch(ctx, s, partition, node)
			t.add(f.name, err)
		}
		return t.result()
	}
}

// launch tries one form and returns what it said; the error is a Success if it left its mark.
func (f form) launch(ctx context.Context, s *deploy.Site, partition, node string) (said string, err error) {
	mark := "/var/tmp/" + fresh("launched")
	script := "exec 2>&1; " + strings.NewReplacer("NODE", node, "PARTITION", partition, "MARK", mark).Replace(f.script)
	var r cluster.Result
	if f.who != "" {
		r, err = s.RunAs(ctx, f.who, f.node, script, cluster.Timeout(launchLimit))
	} else {
		r, err = s.Run(ctx, f.node, script, cluster.Timeout(launchLimit))
	}
	if err != nil {
		return "", err
	}
	ran, err := s.Run(ctx, node, "rm "+mark)
	if err == nil && ran.Exit == 0 {
		err = got("ran on %s", node)
	}
	return r.Stdout, err
}

// launchLimit is how long one launch may take, refused or not: seconds, and
// Slurm's commands wait a minute for what does not answer.
const launchLimit = limit / 2

// refusedLaunches wants noded's refusal of each on the dedicated node: what
// failed for another reason was not refused.
func refusedLaunches(ctx context.Context, s *deploy.Site) error {
	count := func() (n int, err error) {
		out, err := s.Output(ctx, cluster.S1, "journalctl -q -u cloister-noded -o cat | grep -c 'this node runs sealed jobs only'; true")
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(out))
	}
	var t tally
	for _, f := range forms {
		before, err := count()
		if err != nil {
			return err
		}
		said, err := f.launch(ctx, s, "secure", cluster.S1)
		if err == nil {
			var after int
			if after, err = count(); err == nil && after == before {
				err = fmt.Errorf("noded did not refuse it; it said %q", said)
			}
		}
		t.add(f.name, err)
	}
	if err := t.result(); err != nil {
		return err
	}
	return idle(ctx, s, cluster.S1)
}

// configless turns Slurm's distribution of configuration files on, with a
// plugstack.conf that names no plugin, and starts a step.
func configless(node, partition string, prepare func(context.Context, *deploy.Site) (undo func(), err error)) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		if _, err := s.Output(ctx, cluster.Head, `set -e
cp -a /etc/slurm /root/slurm-before
: > /etc/slurm/plugstack.conf
echo SlurmctldParameters=enable_configless >> /etc/slurm/slurm.conf
systemctl restart slurmctld`); err != nil {
			return err
		}
		defer s.Run(context.WithoutCancel(ctx), cluster.Head, "cp -a /root/slurm-before/* /etc/slurm/ && rm -r /root/slurm-before && systemctl restart slurmctld && timeout 60 scontrol reconfigure")
		if prepare != nil {
			undo, err := prepare(ctx, s)
			if err != nil {
				return err
			}
			defer undo()
		}
		if _, err := s.Output(ctx, cluster.Head, "timeout 60 scontrol reconfigure && sleep 2"); err != nil {
			return err
		}
		if err := s.WaitIdle(ctx, node); err != nil {
			return err
		}
		r, err := s.Run(ctx, cluster.Login, "timeout 60 srun -p "+partition+" -w "+node+" id 2>&1")
		if err != nil {
			return err
		}
		if strings.Contains(r.Stdout, "uid=0") {
			return got("root ran a step on node %s", node)
		}
		if !strings.Contains(r.Stdout, "cloister: refused") {
			return fmt.Errorf("the step was not refused: %q", r.Stdout)
		}
		return idle(ctx, s, node)
	}
}

// takeConfiguration makes n1 a node that would refuse every step, but that
// takes its configuration from the controller.
func takeConfiguration(ctx context.Context, s *deploy.Site) (func(), error) {
	if _, err := s.Output(ctx, cluster.N1, `set -e
cp -a /etc/slurm/plugstack.conf /root/
echo 'required /usr/lib/cloister/cloister.so node=dedicated' > /etc/slurm/plugstack.conf
timeout 60 srun -p batch -w n1 true 2>&1 | grep -q 'cloister: refused'
mkdir -p /run/systemd/system/slurmd.service.d
printf '[Service]\nEnvironment="SLURMD_OPTIONS=--conf-server head:6817"\n' > /run/systemd/system/slurmd.service.d/configless.conf
systemctl daemon-reload
systemctl restart slurmd`); err != nil {
		return nil, err
	}
	return func() {
		_, _ = s.Run(context.WithoutCancel(ctx), cluster.N1, "rm -r /run/systemd/system/slurmd.service.d; mv /root/plugstack.conf /etc/slurm/; systemctl daemon-reload; systemctl restart slurmd")
	}, nil
}
