package nodecheck

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"cloister/mutant"
)

// RulesFile is the name of the shipped udev rules, systemd/udev.
const RulesFile = "09-cloister.rules"

// udevRules are where udev(7) reads rules. Of files with one name the first
// counts, and an empty one hides the others.
var udevRules = []string{"/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d"}

// udevRule wants the rules that keep udev from probing volumes.
func (n Node) udevRule() error {
	if mutant.Removed(mutant.UdevRule) {
		return nil
	}
	dirs := n.UdevRules
	if dirs == nil {
		dirs = udevRules
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, RulesFile)
		b, err := readBounded(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("looking for udev's rules: %w", err)
		case len(b) == 0:
			return fmt.Errorf("%s is empty: install systemd/udev/%s there; udevadm control --reload", path, RulesFile)
		}
		return nil
	}
	return fmt.Errorf("udev would look into volumes: install systemd/udev/%s in %s; udevadm control --reload", RulesFile, dirs[0])
}
