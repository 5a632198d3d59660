package attacks

import (
	"context"
	"fmt"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSurroundings plant things around a sealed job that nobody signed:
// variables, files, arguments, standard input.
var onSurroundings = []Attack{
	{Number: 9, Who: "A1 A2", Name: "a submitting host plants variables of every kind, functions, dotfiles and crafted SLURM_* values", Defences: defences(mutant.CleanEnvironment, mutant.PrivateDirectories), Try: plantedEnvironment},
	{Number: 10, Who: "A1 A2", Name: "a submitting host gives arguments, standard input and a working directory with planted files", Long: true, Defences: defences(mutant.SealedArguments, mutant.EmptyInput, mutant.PrivateDirectories),
		Try: every(variant{"input and directory", plantedFiles}, variant{"directory that is not hidden", plantedElsewhere}, variant{"arguments", plantedArguments})},
	{Number: 32, Who: "A1 A4", Name: "--get-user-env has slurmd run a planted profile", Long: true, Control: userProfile("batch", cluster.N1),
		Try: every(variant{"dedicated", userProfile("secure", cluster.S1)}, variant{"on-demand", userProfile("secure", cluster.S2)})},
}

// A variable is planted under a name; its value has the word evil.
type variable struct{ name, value string }

// variables change what the loader, a shell, an interpreter, Slurm's or
// Apptainer's commands do. What a value runs makes a file in /results.
var variables = []variable{
	{"BASH_ENV", "/dev/null$(touch /results/evil-BASH_ENV)"},
	{"ENV", "/dev/null$(touch /results/evil-ENV)"},
	{"PS4", "$(touch /results/evil-PS4)+ "},
	{"BASH_FUNC_cat%%", "() { echo evil; }"},
	{"PATH", "/shared/home/alice/evil:/usr/bin:/bin"},
	{"HOME", "/shared/home/alice/evil"},
	{"LD_PRELOAD", "/shared/home/alice/evil.so"},
	{"LD_AUDIT", "/shared/home/alice/evil.so"},
	{"LD_LIBRARY_PATH", "/shared/home/alice/evil"},
	{"GCONV_PATH", "/shared/home/alice/evil"},
	{"PYTHONPATH", "/shared/home/alice/evil"},
	{"PYTHONSTARTUP", "/shared/home/alice/evil.py"},
	{"PYTHONHOME", "/shared/home/alice/evil"},
	{"PERL5LIB", "/shared/home/alice/evil"},
	{"PERL5OPT", "-I/shared/home/alice/evil"},
	{"SLURM_TASK_PROLOG", "/shared/home/alice/evil"},
	{"SRUN_EXPORT_ENV", "evil"},
	{"SRUN_CONTAINER", "/shared/home/alice/evil"},
	{"SLURM_JOB_GPUS", "$(evil)"},
	{"SLURM_STEP_NODELIST", "evil;"},
	{"SLURM_RESTART_COUNT", "evil"},
	{"APPTAINER_BIND", "/etc/evil"},
	{"APPTAINER_BINDPATH", "/etc/evil"},
	{"APPTAINERENV_LD_PRELOAD", "/shared/home/alice/evil.so"},
	{"SINGULARITY_BIND", "/etc/evil"},
	{"SINGULARITYENV_PREPEND_PATH", "/shared/home/alice/evil"},
}

// plantedEnvironment looks, from a sealed job, at what came in. The job runs a
// login shell, as module systems want, and a shell that traces.
func plantedEnvironment(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "env", "/usr/bin/env -0 | /usr/bin/tr '\\n\\0' ' \\n'\nbash -l -c :\nbash -x -c :\n/bin/ls /results\n")
	if err != nil {
		return err
	}
	home := deploy.Home("alice")
	planted := home + "/.bash_profile " + home + "/evil/.bash_profile"
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, `mkdir -p evil; printf 'touch /results/evil-profile\n' | tee `+planted); err != nil {
		return err
	}
	defer s.RunAs(context.WithoutCancel(ctx), "alice", cluster.Login, "rm -r "+planted+" evil")
	var set strings.Builder
	for _, v := range variables {
		set.WriteString(" '" + v.name + "=" + v.value + "'")
	}
	// Set around sbatch alone: what it does with them is not the question.
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "timeout 60 env SHELLOPTS=xtrace"+set.String()+" /usr/bin/sbatch --export=ALL -J 'evil$(id)' --secure "+name+".sealed")
	if err != nil {
		return err
	}
	id, err := deploy.JobNumber(out)
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	var t tally
	for _, v := range append(variables, variable{"SLURM_JOB_NAME", "evil$(id)"}) {
		t.found(v.name, "came in", evilLine(printed, v.name))
	}
	for _, file := range []string{"evil-BASH_ENV", "evil-PS4", "evil-profile"} {
		t.found(file, "unsigned code ran", strings.Contains(printed, "\n"+file+"\n"))
	}
	t.found("cat()", "a function took a program's place", !strings.Contains(printed, Secret))
	if err := t.result(); err != nil {
		return err
	}
	if strings.Contains(printed, "evil") || !strings.HasPrefix(printed, Secret+"\n") {
		return got("something else came in: the script printed %q", printed)
	}
	return idle(ctx, s, cluster.S2)
}

// evilLine looks for a variable in what env printed. Its value need not be the
// planted one: bash writes functions in its own way.
func evilLine(printed, name string) bool {
	for line := range strings.Lines(printed) {
		if strings.HasPrefix(line, name+"=") && strings.Contains(line, "evil") {
			return true
		}
	}
	return false
}

// plantedFiles: a script that takes its parameters from standard input and its
// functions from beside it, as many do.
func plantedFiles(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "files", "if read -r line; then echo \"$line\"; fi\nif [ -e lib.sh ]; then . ./lib.sh; fi\nls\n")
	if err != nil {
		return err
	}
	if _, err := s.OutputAs(ctx, "alice", cluster.Login, "echo planted-input > input; echo 'echo planted-code' > lib.sh"); err != nil {
		return err
	}
	defer s.RunAs(context.WithoutCancel(ctx), "alice", cluster.Login, "rm input lib.sh")
	id, err := s.Submit(ctx, "alice", "--input="+deploy.Home("alice")+"/input --secure "+name+".sealed")
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	var t tally
	t.found("--input", "the script read it", strings.Contains(printed, "planted-input"))
	t.found("working directory", "the script ran what lay there", strings.Contains(printed, "planted-code"))
	if err := t.result(); err != nil {
		return err
	}
	if printed != Secret+"\n" {
		return got("something else came in: the script printed %q", printed)
	}
	return idle(ctx, s, cluster.S2)
}

// plantedElsewhere submits from a directory that everybody may write to, on the
// disks of the login node and of the node, where the policy hides nothing.
func plantedElsewhere(ctx context.Context, s *deploy.Site) error {
	const dir = "/srv/planted"
	name := fresh("elsewhere")
	// From there a job finds its volumes by absolute paths only.
	script := strings.ReplaceAll(job(name+".luks", "cat /data/secret.txt\npwd\nif [ -e lib.sh ]; then . ./lib.sh; fi\nls\n"), "volume=", "volume="+deploy.Home("alice")+"/")
	if err := s.Seal(ctx, "alice", name, script, "--local", deploy.Home("alice")+"/"+Volume+"="+Volume); err != nil {
		return err
	}
	for _, node := range []string{cluster.Login, cluster.S2} {
		if _, err := s.Output(ctx, node, "mkdir -m 777 "+dir+" && echo 'echo planted-code' > "+dir+"/lib.sh"); err != nil {
			return err
		}
		defer s.Run(context.WithoutCancel(ctx), node, "rm -r "+dir)
	}
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "cd "+dir+" && timeout 60 sbatch -o ~/slurm-%j.out --secure ~/"+name+".sealed")
	if err != nil {
		return err
	}
	id, err := deploy.JobNumber(out)
	if err != nil {
		return err
	}
	if err := completed(ctx, s, id); err != nil {
		return err
	}
	printed, err := s.Results(ctx, "alice", name+".luks", "out.txt")
	if err != nil {
		return err
	}
	if strings.Contains(printed, "planted-code") {
		return got("the script ran what lay there")
	}
	if printed != Secret+"\n"+dir+"\n" {
		return got("something else came in: the script printed %q", printed)
	}
	return idle(ctx, s, cluster.S2)
}

func plantedArguments(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "arguments", "")
	if err != nil {
		return err
	}
	return refused(ctx, s, "alice", "--secure "+name+".sealed --output=/shared/evil", "submitted with 1 arguments")
}

// userProfile: slurmd itself runs the profile, before any plugin is asked.
func userProfile(partition, node string) func(context.Context, *deploy.Site) error {
	return func(ctx context.Context, s *deploy.Site) error {
		const mark = "/var/tmp/profile-ran"
		profile := deploy.Home("alice") + "/.profile"
		if _, err := s.OutputAs(ctx, "alice", cluster.Login, "echo 'touch "+mark+"' > "+profile); err != nil {
			return err
		}
		defer s.RunAs(context.WithoutCancel(ctx), "alice", cluster.Login, "rm "+profile)
		id, err := s.Submit(ctx, "alice", "--get-user-env -p "+partition+" -w "+node+" --secure --wrap true")
		if err != nil {
			return err
		}
		end, err := s.Wait(ctx, "alice", id, limit)
		if err != nil {
			return err
		}
		ran, err := s.Run(ctx, node, "rm "+mark)
		if err != nil {
			return err
		}
		if ran.Exit == 0 {
			return got("the profile ran on %s", node)
		}
		if end.State != "FAILED" {
			return fmt.Errorf("an unsigned job is %s", end.State)
		}
		return idle(ctx, s, node)
	}
}
