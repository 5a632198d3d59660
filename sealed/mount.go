package sealed

import (
	"fmt"
	"path"
	"strings"
)

// MaxMount bounds a mount point's path, in bytes.
const MaxMount = 255

// reservedTrees are the trees of the job view in which nothing of a job is
// mounted: the host's programs and configuration, what the node makes private
// itself, and what the kernel shows.
var reservedTrees = []string{
	"/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32",
	"/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",
}

// CheckMount refuses a path as a mount point in a job view: it must be
// absolute and in its shortest form, of letters, digits and "._-/", not the
// root and not in a tree of the system.
func CheckMount(mount string) error {
	switch {
	case !strings.HasPrefix(mount, "/"):
		return fmt.Errorf("mount point %q is not an absolute path", mount)
	case len(mount) > MaxMount:
		return fmt.Errorf("a mount point of %d bytes, at most %d are served", len(mount), MaxMount)
	case path.Clean(mount) != mount:
		return fmt.Errorf("mount point %q is not in its shortest form, %q", mount, path.Clean(mount))
	case mount == "/":
		return fmt.Errorf("mount point / would hide the whole system")
	}
	for _, r := range mount {
		if !plain(r) && r != '/' {
			return fmt.Errorf("mount point %q holds %q: letters, digits and ._-/ are served", mount, r)
		}
	}
	for _, tree := range reservedTrees {
		if Within(mount, tree) {
			return fmt.Errorf("mount point %q lies in %s, which belongs to the system", mount, tree)
		}
	}
	return nil
}

// CheckMounts refuses a set of mount points if CheckMount refuses one of them,
// or if two are the same or one lies in another.
func CheckMounts(mounts []string) error {
	for i, m := range mounts {
		if err := CheckMount(m); err != nil {
			return err
		}
		for _, other := range mounts[:i] {
			switch {
			case m == other:
				return fmt.Errorf("mount point %q is used twice", m)
			case Within(m, other), Within(other, m):
				return fmt.Errorf("mount points %q and %q lie in each other", other, m)
			}
		}
	}
	return nil
}

// Within reports whether the clean absolute path p is tree or lies in it.
func Within(p, tree string) bool {
	return p == tree || strings.HasPrefix(p, strings.TrimSuffix(tree, "/")+"/")
}

func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}
