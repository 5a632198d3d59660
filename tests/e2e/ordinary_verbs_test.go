//go:build cluster && full

package e2e

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// Run on the login node; verbs/run.sh is the first.
//
//go:embed verbs
var verbs embed.FS

// Where the plugin is installed and an ordinary job can be.
var pluginNodes = []string{cluster.Login, cluster.N1, cluster.S2}

// The same list of Slurm's verbs runs with the plugin installed and without,
// and everything that a user could see of it is compared: exit statuses, what
// is printed where, the files of the jobs, environment, limits, descriptors
// and namespaces of the tasks, what Slurm then says of the jobs.
func TestSlurmsVerbsDoTheSameWithThePluginAndWithout(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	// Jobs side by side on the one processor of n1, or this takes half an hour.
	if _, err := s.Output(ctx, cluster.Head, "scontrol update PartitionName=batch OverSubscribe=FORCE:20"); err != nil {
		t.Fatal(err)
	}
	// Nor with the ten ports that the test cluster gives srun: each takes three.
	for _, node := range pluginNodes {
		if _, err := s.Output(ctx, node, "sed -i '/^SrunPortRange=/d' /etc/slurm/slurm.conf"); err != nil {
			t.Fatal(err)
		}
	}
	with := seen(t, s, true)
	for _, node := range pluginNodes {
		if _, err := s.Output(ctx, node, "mv /etc/slurm/plugstack.conf /etc/slurm/plugstack.conf.off; ! systemctl is-enabled -q slurmd || [ $(hostname) = login ] || systemctl restart slurmd"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WaitIdle(ctx, cluster.N1, cluster.S2); err != nil {
		t.Fatal(err)
	}
	without := seen(t, s, false)

	names := slices.Sorted(maps.Keys(without))
	for name := range with {
		if _, ok := without[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if with[name] != without[name] {
			t.Errorf("%s\n%s", name, differences(without[name], with[name]))
		}
	}
	t.Logf("%d things compared", len(names))
	for _, name := range []string{"srun-plain.out", "srun-facts.out", "files/script-script-bob.txt", "files/requeue.txt", "files/limit.txt",
		"files/secure-secure-script.txt", "secure-srun.out", "sattach.out", "files/epilog-s2-1.txt", "files/epilog-n1-3.txt"} {
		if strings.TrimSpace(without[name]) == "" {
			t.Errorf("the harness: nothing came out of %s", name)
		}
	}
	for _, node := range []string{cluster.N1, cluster.S2} {
		if state, err := s.NodeState(ctx, node); err != nil || state != "idle" {
			t.Errorf("afterwards %s is %s, %v", node, state, err)
		}
	}
}

// seen runs the verbs and returns what came out, by the verb's or the file's
// name, with what differs from run to run anyway taken out.
func seen(t *testing.T, s *deploy.Site, plugin bool) map[string]string {
	t.Helper()
	ctx := t.Context()
	began := time.Now()
	dir := deploy.Home("bob") + "/verbs"
	var put strings.Builder
	fmt.Fprintf(&put, "set -e\nrm -rf %s\nmkdir %[1]s\ncd %[1]s\n", dir)
	entries, err := verbs.ReadDir("verbs")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := verbs.ReadFile("verbs/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&put, "cat >%s <<'END OF %[1]s'\n%sEND OF %[1]s\n", e.Name(), text)
	}
	fmt.Fprintf(&put, "echo 'FROM_PROFILE=read; export FROM_PROFILE' >../.profile\nchmod 755 *\nchown -R bob: . ../.profile\n")
	if _, err := s.Output(ctx, cluster.Head, put.String()); err != nil {
		t.Fatal(err)
	}

	// A long step shows whether the plugin is where the test believes it.
	want := map[bool]string{true: "1\n", false: "0\n"}[plugin]
	if out, err := s.Output(ctx, cluster.Login, "srun --help | grep -c -e --secure; true"); err != nil || out != want {
		t.Fatalf("srun knows --secure %q times, %v", out, err)
	}
	loaded := make(chan error, 1)
	done, stop := context.WithCancel(ctx)
	go func() { loaded <- stepsHavePlugin(done, s, plugin) }()
	_, err = s.OutputAs(ctx, "bob", cluster.Login, "exec verbs/run.sh", cluster.Timeout(8*time.Minute))
	stop()
	if err != nil {
		t.Fatal(err)
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	const list = `for f in *; do [ -f "$f" ] && printf '\f%s%s\n' "$PREFIX" "$f" && cat "$f"; done; true`
	got, err := s.Output(ctx, cluster.Login, "cd /tmp/verbs; PREFIX=; "+list)
	if err != nil {
		t.Fatal(err)
	}
	files, err := s.Output(ctx, cluster.Head, "cd "+dir+"; rm *.sh; PREFIX=files/; "+list)
	if err != nil {
		t.Fatal(err)
	}
	n := normaliser(t, s)
	all := make(map[string]string)
	for _, section := range strings.Split(got+files, "\f")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		all[n.name(name)] += n.text(name, text)
	}
	t.Logf("%d outputs after %.0f s, plugin: %v", len(all), time.Since(began).Seconds(), plugin)
	return all
}

// stepsHavePlugin looks at the nodes' slurmstepds until ctx ends.
func stepsHavePlugin(ctx context.Context, s *deploy.Site, plugin bool) error {
	found := make(map[string]bool)
	for ctx.Err() == nil {
		for _, node := range []string{cluster.N1, cluster.S2} {
			r, err := s.Run(context.WithoutCancel(ctx), node, "cat $(pgrep slurmstepd | sed 's,.*,/proc/&/maps,') /dev/null 2>/dev/null | grep -c /usr/lib/cloister/cloister.so; true")
			if err != nil {
				return err
			}
			found[node] = found[node] || strings.TrimSpace(r.Stdout) != "0"
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	if found[cluster.N1] != plugin || found[cluster.S2] != plugin {
		return fmt.Errorf("slurmstepd had the plugin on %v, which should be %v", found, plugin)
	}
	return nil
}
