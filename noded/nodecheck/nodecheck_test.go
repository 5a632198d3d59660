package nodecheck

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mounts are those of a slurmd that lives under the shipped drop-in.
const mounts = `30 1 0:1 / / ro,relatime shared:1 - ext4 /dev/vda rw
31 30 0:2 / /run ro,nosuid - tmpfs tmpfs rw
32 30 0:1 /tmp /tmp rw - ext4 /dev/vda rw
33 30 0:1 /var/spool/slurmd /var/spool/slurmd rw - ext4 /dev/vda rw
34 30 0:2 /systemd/inaccessible/dir /etc/cloister ro - tmpfs tmpfs rw
35 30 0:2 /systemd/inaccessible/dir /var/lib/cloister ro - tmpfs tmpfs rw
36 31 0:2 /systemd/inaccessible/dir /run/cloister/sessions ro - tmpfs tmpfs rw
`

// tunables are those that the shipped drop-in sets.
const tunables = "GLIBC_TUNABLES=glibc.malloc.perturb=165:glibc.malloc.tcache_count=0\x00"

// node writes a sound secure node's files and lets the test spoil some. @DIR@
// stands for the directory of slurm.conf.
func node(t *testing.T, spoil map[string]string) Node {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"slurm.conf":         "ClusterName=lab\nProctrackType=proctrack/cgroup\nGetEnvTimeout=0 # no login shells\nProlog=/etc/slurm/prolog\nPrologFlags=Alloc,Contain\n",
		"plugstack.conf":     "# ours\nrequired @DIR@/lib/cloister.so node=dedicated\noptional /usr/lib/other.so\n",
		"lib/" + WorkFile:    "",
		"swaps":              "Filename\tType\tSize\tUsed\tPriority\n",
		"core_pattern":       "core\n",
		"cmdline":            "root=/dev/vda ro quiet init_on_free=1\n",
		"rules/" + RulesFile: "KERNEL==\"dm-*\", GOTO=\"end\"\n",
		"proc/100/comm":      "slurmd\n",
		"proc/100/status":    status(0, 0, 0, 0),
		"proc/100/exe":       "",
		"proc/100/mountinfo": mounts,
		"proc/100/cmdline":   "/usr/sbin/slurmd\x00-D\x00--systemd\x00",
		"proc/100/environ":   "PATH=/usr/bin\x00" + tunables,
		"proc/101/comm":      "bash\n",
		"proc/self/comm":     "slurmd\n",
	}
	for name, text := range spoil {
		files[name] = text
	}
	for name, text := range files {
		if text == "absent" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "@DIR@", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	return Node{SlurmConf: at("slurm.conf"), PlugstackDir: dir, Configless: at("conf"), Swaps: at("swaps"), CorePattern: at("core_pattern"),
		CommandLine: at("cmdline"), UdevRules: []string{at("etc-rules"), at("rules")}, Proc: at("proc"), Class: "dedicated", Kernel: func() []string { return nil }}
}

func TestASoundNodeHasNothingWrong(t *testing.T) {
	for _, sound := range []map[string]string{
		nil,
		{"slurm.conf": "GetEnvTimeout=9\nGETENVTIMEOUT = 0\n"}, // the later counts
		{"slurm.conf": "include more.conf\n", "more.conf": "GetEnvTimeout=0\n"},
		{"slurm.conf": "Include @DIR@/more.conf\n", "more.conf": "GetEnvTimeout=0\n"},
		{"slurm.conf": "PrologFlags=\\\nContain GetEnvTimeout=0\n"},
		{"slurm.conf": "GetEnvTimeout=0\n#UsePAM=1\nUsePAM=0\nTaskProlog=(null)\nLaunchParameters=slurmstepd_memlock\n"},
		{"plugstack.conf": "required\tcloister.so\tnode=dedicated\n"},
		{"proc/100/comm": "absent"}, // no slurmd runs
		{"proc/100/cmdline": "/usr/sbin/slurmd\x00-Df\x00@DIR@/slurm.conf\x00"},
		{"proc/100/environ": tunables + "SLURM_CONF=@DIR@/slurm.conf\x00"},
		{"swaps": "absent"},
		{"rules/" + RulesFile: "absent", "etc-rules/" + RulesFile: "OPTIONS:=\"nowatch\"\n"},
	} {
		if wrong := node(t, sound).Check(); len(wrong) != 0 {
			t.Errorf("%v: %q", sound, wrong)
		}
	}
}

func TestEachFaultIsNamed(t *testing.T) {
	const conf = "GetEnvTimeout=0\n"
	for _, c := range []struct{ file, text, says string }{
		{"slurm.conf", "absent", "slurm.conf of its own"},
		{"slurm.conf", "ClusterName=lab\n", "does not say GetEnvTimeout=0"},
		{"slurm.conf", "#GetEnvTimeout=0\n", "does not say GetEnvTimeout=0"},
		{"slurm.conf", "GetEnvTimeout=2\n", "slurm.conf, line 1 says GetEnvTimeout=2, not 0"},
		{"slurm.conf", "GetEnvTimeout=0\n\nGetEnvTimeout=5\n", "line 3 says GetEnvTimeout=5"},
		{"slurm.conf", conf + "include *.conf\n", "cannot be followed"},
		{"slurm.conf", conf + "include gone.conf\n", "gone.conf"},
		{"slurm.conf", conf + "include slurm.conf\n", "include each other"},
		{"slurm.conf", conf + "UsePAM=1\n", "line 2 has UsePAM=1"},
		{"slurm.conf", conf + "usepam=YES\n", "UsePAM=YES"},
		{"slurm.conf", conf + "TaskProlog=/bin/x\n", "TaskProlog=/bin/x"},
		{"slurm.conf", conf + "TaskEpilog=\"/bin/x y\"\n", "TaskEpilog=/bin/x y"},
		{"slurm.conf", conf + "UnkillableStepProgram=/bin/x\n", "UnkillableStepProgram"},
		{"slurm.conf", conf + "PrologFlags=Contain,X11\n", "X11 forwarding"},
		{"slurm.conf", conf + "LaunchParameters=enable_nss_slurm\n", "from the controller"},
		{"slurm.conf", conf + "JobContainerType=job_container/tmpfs\n", "JobContainerType"},
		{"slurm.conf", conf + "ProctrackType=proctrack/linuxproc\n", "proctrack/cgroup"},
		{"slurm.conf", conf + "PlugStackConfig=/tmp/p.conf\n", "PlugStackConfig=/tmp/p.conf"},
		{"slurm.conf", conf + "SlurmdParameters=l3cache_as_socket,contain_spank\n", "a copy of slurmstepd"},
		{"oci.conf", "ContainerPath=/tmp/%j\n", "its owner did not seal"},
		{"conf", "", "configuration from the controller"},
		{"plugstack.conf", "absent", "plugstack.conf of its own"},
		{"plugstack.conf", "optional cloister.so node=dedicated\n", "not required"},
		{"plugstack.conf", "required /usr/lib/cloister/cloister.so\n", "node=dedicated"},
		{"lib/" + WorkFile, "absent", "install cloister-secure.so beside cloister.so"},
		{"plugstack.conf", "required /usr/lib/cloister/cloister.so node=on-demand\n", "node=dedicated"},
		{"plugstack.conf", "required other.so\n", "does not load"},
		{"plugstack.conf", "required /usr/lib/notcloister.so node=dedicated\n", "does not load"},
		{"plugstack.conf", "optional other.so\nrequired cloister.so node=dedicated\n", "the first line"},
		{"plugstack.conf", "required cloister.so node=dedicated\noptional cloister.so\n", "twice"},
		{"plugstack.conf", "required cloister.so node=dedicated\ninclude /etc/slurm/plugstack.conf.d/*\n", "is not followed"},
		{"plugstack.conf", "requires cloister.so node=dedicated\n", "does not know"},
		{"rules/" + RulesFile, "absent", "install systemd/udev/" + RulesFile},
		{"rules/" + RulesFile, "", "is empty"},
		{"etc-rules/" + RulesFile, "", "etc-rules/" + RulesFile + " is empty"}, // it hides the other
		{"swaps", "Filename\n/dev/vdb partition 1 0 -2\n", "swap is on (/dev/vdb)"},
		{"swaps", "Filename\n/dev/zram0 partition 1 0 100\n", "swap is on (/dev/zram0)"},
		{"core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n", "kernel.core_pattern=core"},
		{"core_pattern", "@/run/systemd/coredump\n", "kernel.core_pattern=core"},
		{"core_pattern", "absent", "core dumps"},
		{"cmdline", "root=/dev/vda resume=/dev/vdb init_on_free=on\n", "resume=/dev/vdb"},
		{"cmdline", "root=/dev/vda ro\n", "init_on_free=1"},
		{"cmdline", "init_on_free=1 init_on_free=0\n", "init_on_free=1"},
		{"proc/100/status", "Name:\tslurmd\n", "no Uid"},
		{"proc/100/status", "Uid:\t0\t0\t0\n", "its status has"},
		{"proc/100/status", "Uid:\t0\t0\t0\troot\n", "its status has"},
		{"proc/100/status", "Uid:\t0\t0\t0\t0\t0\n", "its status has"},
		{"proc/100/mountinfo", strings.Replace(mounts, "/run ro,", "/run rw,", 1), "may write /run"},
		{"proc/100/mountinfo", strings.Replace(mounts, "/ / ro,", "/ / rw,", 1), "may write /:"},
		{"proc/100/mountinfo", mounts + "40 30 0:1 /etc /etc rw - ext4 /dev/vda rw\n", "may write /etc"},
		{"proc/100/mountinfo", strings.Replace(mounts, "34 30 0:2 /systemd/inaccessible/dir", "34 30 0:2 /x", 1), "can see /etc/cloister"},
		{"proc/100/mountinfo", strings.Replace(mounts, "/run/cloister/sessions", "/run/other", 1), "can see /run/cloister/sessions"},
		{"proc/100/mountinfo", "nonsense\n", "not a line of mountinfo"},
		{"proc/100/cmdline", "/usr/sbin/slurmd\x00--conf-server\x00head\x00", "configless"},
		{"proc/100/cmdline", "/usr/sbin/slurmd\x00--conf-server=head\x00", "configless"},
		{"proc/100/cmdline", "/usr/sbin/slurmd\x00-D\x00-f\x00/tmp/slurm.conf\x00", "/tmp/slurm.conf"},
		{"proc/100/cmdline", "/usr/sbin/slurmd\x00-Df/tmp/slurm.conf\x00", "/tmp/slurm.conf"},
		{"proc/100/environ", "PATH=/usr/bin\x00", "does not overwrite"},
		{"proc/100/environ", strings.Replace(tunables, "perturb=165", "perturb=0", 1), "does not overwrite"},
		{"proc/100/environ", strings.Replace(tunables, ":glibc.malloc.tcache_count=0", "", 1), "does not overwrite"},
		{"proc/100/environ", tunables + "SLURM_CONF=/tmp/slurm.conf\x00", "SLURM_CONF=/tmp/slurm.conf"},
		{"proc/100/environ", tunables + "A=b\x00SLURM_CONF_SERVER=head\x00", "SLURM_CONF_SERVER"},
		{"proc/100/environ", tunables + "SLURMD_RECONF_CONF_CACHE=/var/spool/slurmd/conf-cache\x00", "configless"},
	} {
		wrong := node(t, map[string]string{c.file: c.text}).Check()
		if len(wrong) != 1 || !strings.Contains(wrong[0], c.says) {
			t.Errorf("%s = %q: got %q, want one sentence with %q", c.file, c.text, wrong, c.says)
		}
	}
}

func TestAllFaultsAreNamedAtOnce(t *testing.T) {
	wrong := node(t, map[string]string{"slurm.conf": "UsePAM=1\n", "plugstack.conf": "", "swaps": "/x\n", "core_pattern": "|x\n"}).Check()
	if len(wrong) != 5 {
		t.Errorf("%d faults: %q", len(wrong), wrong)
	}
}

func TestWhatTheKernelLacksIsAFault(t *testing.T) {
	n := node(t, nil)
	n.Kernel = func() []string { return []string{"no crypt"} }
	if wrong := n.Check(); len(wrong) != 1 || wrong[0] != "no crypt" {
		t.Errorf("%q", wrong)
	}
}

func TestOnlyReleasesOfSlurmThatKnowGetEnvTimeoutMayServe(t *testing.T) {
	for text, serves := range map[string]bool{
		"slurm 24.11.5": true, "slurm-wlm 24.11.0-rc1": true,
		"slurm 23.11.10": false, "slurm-wlm 22.05.8": false, "slurm 25.05.0": false, "slurm 26.05.5": false,
		"": false, "slurm": false, "slurm x.y": false, "slurm 24": false, "slurm -1.11": false,
	} {
		if err := checkRelease(text); (err == nil) != serves {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A gathering collects what a watch tells.
type gathering struct {
	mu   sync.Mutex
	said []string
}

func (g *gathering) wrong(fault string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.said = append(g.said, fault)
}

func (g *gathering) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.said, "\n")
}

func TestSwapThatComesUpIsToldUntilTheWatchEnds(t *testing.T) {
	old := recheck
	recheck = 20 * time.Millisecond // a file, unlike the kernel's, announces nothing
	t.Cleanup(func() { recheck = old })
	n := node(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	var g gathering
	done := make(chan error, 1)
	go func() { done <- n.WatchMemory(ctx, g.wrong) }()
	time.Sleep(50 * time.Millisecond)
	if g.text() != "" {
		t.Errorf("told on a sound node: %s", g.text())
	}
	if err := os.WriteFile(n.Swaps, []byte("Filename\n/var/swap file 1 0 -2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(g.text(), "/var/swap"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("told: %q", g.text())
		}
	}
	recheck := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(recheck); took > 2*time.Second {
		t.Errorf("the watch ended after %s", took)
	}
}

func FuzzSlurmConf(f *testing.F) {
	for _, seed := range []string{"GetEnvTimeout=0\n", "include x\n", "A=\"b c\" D = e \\\n F=g # h\n", "\\#=\\\\#\n", "UsePAM=1\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "slurm.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := settings{}
		if err := s.read(path, "/nonexistent", 0); err != nil {
			return
		}
		for name := range s {
			if name != strings.ToLower(name) || name == "" {
				t.Errorf("the name %q", name)
			}
		}
	})
}
