package nodecheck

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// plugstack wants the plugin as required and before every other, with the
// policy's class. Other plugins after it are the administrator's business: they
// are root's own code on this node.
func (n Node) plugstack() error {
	path := or(n.PlugstackDir, "/etc/slurm") + "/plugstack.conf"
	lines, err := readLines(path)
	if err != nil {
		return fmt.Errorf("a secure node needs a plugstack.conf of its own: %w", err)
	}
	line := "required /usr/lib/cloister/" + PluginFile + " node=" + n.Class
	found := false
	for i, l := range lines {
		fields := strings.Fields(l)
		switch {
		case fields[0] == "include":
			return fmt.Errorf("%s has %q, which is not followed: put the lines of those files in its place", path, l)
		case fields[0] != "required" && fields[0] != "optional":
			return fmt.Errorf("%s has %q, which Slurm does not know", path, l)
		case len(fields) < 2 || !isPlugin(fields[1]):
			continue
		case found:
			return fmt.Errorf("%s loads %s twice: leave one line, %q", path, PluginFile, line)
		case i > 0:
			return fmt.Errorf("%s loads other plugins before %s: make %q the first line", path, PluginFile, line)
		case fields[0] != "required":
			return fmt.Errorf("%s has the plugin as %q, not required: Slurm would run jobs without it; make the line %q", path, fields[0], line)
		case !slices.Contains(fields[2:], "node="+n.Class):
			return fmt.Errorf("%s does not give the plugin node=%s, which the policy's class demands: make the line %q", path, n.Class, line)
		}
		if err := complete(fields[1]); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s does not load %s: add the line %q", path, PluginFile, line)
	}
	return nil
}

// complete says whether the plugin will find its other half. Where a name
// without a directory leads is Slurm's to say; there the plugin itself refuses.
func complete(plugin string) error {
	if !filepath.IsAbs(plugin) {
		return nil
	}
	work := filepath.Join(filepath.Dir(plugin), WorkFile)
	if _, err := os.Stat(work); err != nil {
		return fmt.Errorf("the plugin lacks what it loads for a secure step: %w: install %s beside %s", err, WorkFile, PluginFile)
	}
	return nil
}

func isPlugin(file string) bool {
	return file == PluginFile || strings.HasSuffix(file, "/"+PluginFile)
}
