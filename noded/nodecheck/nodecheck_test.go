package nodecheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// node writes a sound secure node's files and lets the test spoil one.
func node(t *testing.T, spoil map[string]string) Node {
	t.Helper()
	files := map[string]string{
		"slurm.conf":     "ClusterName=lab\nGetEnvTimeout=0 # no login shells\n",
		"plugstack.conf": "# ours\nrequired /usr/lib/cloister/cloister.so node=dedicated\n",
		"swaps":          "Filename\tType\tSize\tUsed\tPriority\n",
		"core_pattern":   "core\n",
	}
	dir := t.TempDir()
	for name, text := range files {
		if s, ok := spoil[name]; ok {
			text = s
		}
		if text == "absent" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Node{SlurmConf: filepath.Join(dir, "slurm.conf"), PlugstackDir: dir, Swaps: filepath.Join(dir, "swaps"),
		CorePattern: filepath.Join(dir, "core_pattern"), Class: "dedicated"}
}

func TestASoundNodeHasNothingWrong(t *testing.T) {
	if wrong := node(t, nil).Check(); len(wrong) != 0 {
		t.Fatal(wrong)
	}
}

func TestEachFaultIsNamed(t *testing.T) {
	for _, c := range []struct{ file, text, says string }{
		{"slurm.conf", "absent", "slurm.conf of its own"},
		{"slurm.conf", "ClusterName=lab\n", "GetEnvTimeout=0"},
		{"slurm.conf", "#GetEnvTimeout=0\n", "GetEnvTimeout=0"},
		{"slurm.conf", "GetEnvTimeout=2\n", "GetEnvTimeout=0"},
		{"plugstack.conf", "absent", "plugstack.conf of its own"},
		{"plugstack.conf", "optional cloister.so node=dedicated\n", "not required"},
		{"plugstack.conf", "required /usr/lib/cloister/cloister.so\n", "node=dedicated"},
		{"plugstack.conf", "required /usr/lib/cloister/cloister.so node=on-demand\n", "node=dedicated"},
		{"plugstack.conf", "required other.so\n", "does not load"},
		{"swaps", "Filename\n/dev/vdb partition 1 0 -2\n", "/dev/vdb"},
		{"core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n", "core_pattern"},
	} {
		wrong := node(t, map[string]string{c.file: c.text}).Check()
		if len(wrong) != 1 || !strings.Contains(wrong[0], c.says) {
			t.Errorf("%s = %q: got %q, want one sentence with %q", c.file, c.text, wrong, c.says)
		}
	}
}
