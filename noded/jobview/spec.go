package jobview

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cloister/mutant"
	"cloister/noded/stepproof"
	"cloister/sealed"
)

// reserved are directories whose contents programs of the host take on trust,
// and those that the view makes itself. Nothing of the job goes there.
var reserved = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var",
}

// covered reports whether what the host has at the path is not in the view
// whatever the working directory is.
func (s *Spec) covered(path string) bool {
	return within(path, s.Home) || beneath(path, writable) || beneath(path, s.Hidden)
}

// hidden are the directories that are empty in the view, but for what the job
// has there: the policy's, and the whole top-level directories of a $HOME and a
// working directory elsewhere. To cover such a directory alone is not enough:
// who may rename it, on the file server too, takes the cover away with it.
func (s *Spec) hidden() []string {
	all := slices.Clone(s.Hidden)
	for _, path := range []string{s.Home, s.Cwd} {
		top, _, _ := strings.Cut(path[1:], "/")
		if path == "/" || beneath(path, reserved) || beneath(path, all) || beneath(path, writable) {
			continue
		}
		all = append(all, "/"+top)
	}
	return all
}

// CheckDirectory refuses a working directory that the view cannot make empty
// without a change to what programs of the host, or the view itself, find.
func (s *Spec) CheckDirectory() error {
	if s.Cwd == "/" {
		return nil
	}
	spool := s.ScriptPath != "" && (within(s.Cwd, s.spool()) || within(s.spool(), s.Cwd))
	if !spool && (s.covered(s.Cwd) || !beneath(s.Cwd, reserved)) {
		return nil
	}
	return &sealed.Refusal{
		Cause: fmt.Sprintf("the job was submitted from %s, which belongs to the node's system", s.Cwd),
		Next:  "submit it from your home directory or another one of your own",
	}
}

func (s *Spec) validate() error {
	if s.UID == 0 || s.GID == 0 {
		return fmt.Errorf("uid %d, gid %d: root has no job view", s.UID, s.GID)
	}
	if s.TmpSize <= 0 {
		return fmt.Errorf("size of private file systems: %d bytes", s.TmpSize)
	}
	for _, d := range slices.Concat([]string{s.Cwd, s.Home}, s.Hidden) {
		if err := clean(d); err != nil {
			return err
		}
	}
	if s.Home == "/" || slices.ContainsFunc(reserved, func(r string) bool { return within(r, s.Home) }) {
		return fmt.Errorf("home directory %q would hide a part of the system", s.Home)
	}
	for _, h := range s.Hidden {
		if h == "/" || slices.ContainsFunc(reserved, func(r string) bool { return within(r, h) }) {
			return fmt.Errorf("hiding %q would hide a part of the system", h)
		}
	}
	if err := s.CheckDirectory(); err != nil {
		return err
	}
	for i, v := range s.Volumes {
		if mutant.Removed(mutant.MountPoints) {
			break
		}
		if err := s.validMountPoint(v.Target); err != nil {
			return fmt.Errorf("mount point %q: %w", v.Target, err)
		}
		for _, w := range s.Volumes[:i] {
			if within(v.Target, w.Target) || within(w.Target, v.Target) {
				return fmt.Errorf("mount points %q and %q: one lies in the other", w.Target, v.Target)
			}
		}
	}
	if s.ImagePath != "" || s.Image != "" {
		if err := s.validFile(s.ImagePath); err != nil {
			return fmt.Errorf("image path %q: %w", s.ImagePath, err)
		}
	}
	if s.ImageVolume != "" && !slices.ContainsFunc(s.Volumes, func(v Mount) bool { return v.Target == s.ImageVolume }) {
		return fmt.Errorf("image in %q: no volume of the job is there", s.ImageVolume)
	}
	for i, f := range s.Secrets {
		if err := sealed.CheckName(f.Name); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
		if slices.ContainsFunc(s.Secrets[:i], func(o Secret) bool { return o.Name == f.Name }) {
			return fmt.Errorf("secret %q is there twice", f.Name)
		}
	}
	if n := s.StepKey.Len(); n != 0 && n != stepproof.KeySize {
		return fmt.Errorf("a step key of %d bytes", n)
	}
	for _, d := range s.Devices {
		if err := clean(d); err != nil || !strings.HasPrefix(d, "/dev/") {
			return fmt.Errorf("device %q: not below /dev", d)
		}
	}
	return s.validScript()
}

func (s *Spec) validMountPoint(p string) error {
	if err := clean(p); err != nil {
		return err
	}
	if err := unreserved(p); err != nil {
		return err
	}
	for _, need := range []string{s.Home, s.Cwd} {
		if within(need, p) {
			return fmt.Errorf("it would hide %s", need)
		}
	}
	return nil
}

func (s *Spec) validFile(p string) error {
	if err := clean(p); err != nil {
		return err
	}
	for _, v := range s.Volumes {
		if within(v.Target, p) || within(p, v.Target) {
			return fmt.Errorf("it collides with the volume at %s", v.Target)
		}
	}
	return unreserved(p)
}

func unreserved(p string) error {
	if p == "/" {
		return errors.New("the root directory")
	}
	for _, r := range reserved {
		if within(p, r) {
			return fmt.Errorf("%s belongs to the system", r)
		}
	}
	return nil
}

func (s *Spec) validScript() error {
	if s.ScriptPath == "" {
		return nil
	}
	if err := clean(s.ScriptPath); err != nil {
		return err
	}
	// SPOOL/jobNNNNN/slurm_script: SPOOL is hidden, so it must be a place of its own.
	if strings.Count(s.spool(), "/") < 2 {
		return fmt.Errorf("script %q: its spool directory is too near to the root", s.ScriptPath)
	}
	return nil
}

// spool is slurmd's spool directory, SlurmdSpoolDir.
func (s *Spec) spool() string { return filepath.Dir(filepath.Dir(s.ScriptPath)) }

func clean(p string) error {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsRune(p, 0) || len(p) > 4095 {
		return fmt.Errorf("%q is not a clean absolute path", p)
	}
	return nil
}

// beneath reports whether p lies within one of the directories.
func beneath(p string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return within(p, d) })
}

// within reports whether p is dir or lies beneath it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
