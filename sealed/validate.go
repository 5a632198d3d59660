package sealed

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a manifest's fields, in bytes unless said otherwise.
const (
	MaxVolumes     = 32
	MaxPath        = 4095
	MaxName        = 64 // user, cluster, secret file
	MaxLabel       = 47 // what a LUKS2 header holds
	MaxArguments   = 256
	MaxArgument    = 4096
	MaxEnvironment = 256 // variables
	// MaxTogether bounds all arguments together, and all names and values of
	// variables: either has to fit a datagram of 64 KiB (noded/handoff), the ones
	// with the user's groups, the others with five paths.
	MaxTogether = 40 << 10
	MaxTokens   = 1024
	MaxToken    = 1024

	// MinCreate and MaxCreate bound the size of a volume that a node makes.
	// ext4 with its journal needs some MiB; 2^50 is far below what 64-bit
	// sector numbers hold.
	MinCreate = 32 << 20
	MaxCreate = 1 << 50

	// MaxLifetime bounds expires - created.
	MaxLifetime = 366 * 24 * time.Hour

	createUnit = 4096 // the sector size of a volume
)

// Validate refuses a manifest that no client should make and no node should
// take, whatever its policy.
func (m *Manifest) Validate() error {
	for _, check := range []func() error{m.checkHead, m.checkTimes, m.checkScript, m.Runs.validate, m.checkVolumes, m.checkFiles, m.checkImage, m.checkOutput, m.checkKeys} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) checkHead() error {
	if m.Format != Format {
		return fmt.Errorf("format %d, this version reads %d", m.Format, Format)
	}
	if err := CheckJobID(m.Job); err != nil {
		return err
	}
	// ssh-keygen's fingerprint: SHA-256 in base64 without padding.
	digest, ok := strings.CutPrefix(m.Signer, "SHA256:")
	if b, err := base64.RawStdEncoding.Strict().DecodeString(digest); !ok || err != nil || len(b) != 32 || len(digest) != 43 {
		return fmt.Errorf("signer %q is no SHA-256 fingerprint of an SSH key", m.Signer)
	}
	if err := CheckName(m.User); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if err := CheckName(m.Cluster); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return CheckClass(m.Class)
}

func (m *Manifest) checkTimes() error {
	for _, t := range []time.Time{m.Created, m.Expires} {
		if t.Nanosecond() != 0 || t.Location() != time.UTC || t.Year() < 2020 || t.Year() > 9999 {
			return fmt.Errorf("time %s is not in UTC and whole seconds", t.Format(time.RFC3339Nano))
		}
	}
	if life := m.Expires.Sub(m.Created); life <= 0 || life > MaxLifetime {
		return fmt.Errorf("it expires %s after it was made: more than 0 and at most %s are served", life, MaxLifetime)
	}
	return nil
}

func (m *Manifest) checkScript() error {
	if len(m.Arguments) > MaxArguments {
		return fmt.Errorf("%d arguments, at most %d are served", len(m.Arguments), MaxArguments)
	}
	together := 0
	for i, a := range m.Arguments {
		if err := checkText(a, MaxArgument); err != nil {
			return fmt.Errorf("argument %d: %w", i+1, err)
		}
		together += len(a)
	}
	if together > MaxTogether {
		return fmt.Errorf("arguments of %d bytes together, at most %d are served", together, MaxTogether)
	}
	if len(m.Environment) > MaxEnvironment {
		return fmt.Errorf("%d environment variables, at most %d are served", len(m.Environment), MaxEnvironment)
	}
	together = 0
	for name, value := range m.Environment {
		if err := CheckVariable(name, value); err != nil {
			return err
		}
		together += len(name) + len(value)
	}
	if together > MaxTogether {
		return fmt.Errorf("environment variables of %d bytes together, at most %d are served", together, MaxTogether)
	}
	return nil
}

func (m *Manifest) checkVolumes() error {
	if len(m.Volumes) > MaxVolumes {
		return fmt.Errorf("%d volumes, at most %d are served", len(m.Volumes), MaxVolumes)
	}
	var mounts []string
	seen := make(map[string]bool)
	for _, v := range m.Volumes {
		if err := v.validate(); err != nil {
			return fmt.Errorf("volume %q: %w", v.Path, err)
		}
		if err := m.Runs.CheckVolume(v.Path, v.Mode, v.Create); err != nil {
			return fmt.Errorf("volume %q: %w", v.Path, err)
		}
		if seen[v.Path] || seen[v.Pinned.UUID] {
			return fmt.Errorf("volume %q is named twice", v.Path)
		}
		seen[v.Path], seen[v.Pinned.UUID] = true, true
		mounts = append(mounts, v.Mount)
	}
	if m.Image != nil && path.IsAbs(m.Image.Mount) {
		mounts = append(mounts, m.Image.Mount)
	}
	return CheckMounts(mounts)
}

func (v *Volume) validate() error {
	if err := CheckPath(v.Path); err != nil {
		return err
	}
	if v.Mode != ReadOnly && v.Mode != ReadWrite {
		return fmt.Errorf("mode %q is neither ro nor rw", v.Mode)
	}
	if v.Create {
		if v.Mode != ReadWrite {
			return errors.New("a volume that the node makes must be rw")
		}
		if v.Size < MinCreate || v.Size > MaxCreate || v.Size%createUnit != 0 {
			return fmt.Errorf("size %d: from %d to %d bytes in steps of %d are served", v.Size, MinCreate, int64(MaxCreate), createUnit)
		}
	} else if v.Size != 0 {
		return errors.New("a size is given, but the node does not make it")
	}
	if err := checkText(v.Label, MaxLabel); err != nil {
		return fmt.Errorf("label: %w", err)
	}
	if err := v.Pinned.Validate(); err != nil {
		return fmt.Errorf("pinned parameters: %w", err)
	}
	return v.checkPinned()
}

// checkOutput wants stdout and stderr inside a volume that the job writes, or
// /dev/null: there is nowhere else that a job's output may go.
func (m *Manifest) checkOutput() error {
	for _, out := range []string{m.Stdout, m.Stderr} {
		if out == "/dev/null" {
			continue
		}
		if err := CheckOutput(out); err != nil {
			return err
		}
		for _, letter := range "aA" {
			if hasPattern(out, byte(letter)) && !m.Runs.Array() {
				return fmt.Errorf("output %q: %%%c is of an array, and this job is none", out, letter)
			}
		}
		inside := false
		for _, v := range m.Volumes {
			inside = inside || v.Mode == ReadWrite && out != v.Mount && Within(out, v.Mount)
		}
		if !inside {
			return fmt.Errorf("output %q is not inside a volume that the job can write", out)
		}
	}
	return nil
}

func (m *Manifest) checkKeys() error {
	if len(m.Tokens) != m.Runs.Count() {
		return fmt.Errorf("%d tokens for %d runs", len(m.Tokens), m.Runs.Count())
	}
	seen := make(map[string]bool)
	for _, t := range append([]string{m.Spare}, m.Tokens...) {
		if err := checkToken(t); err != nil {
			return err
		}
		if seen[t] {
			return errors.New("a token is named twice")
		}
		seen[t] = true
	}
	if want := secretsSize(len(m.Volumes), len(m.Files)); len(m.Secrets) < want || len(m.Secrets) > MaxSecrets {
		return fmt.Errorf("secrets of %d bytes for %d volumes and %d files", len(m.Secrets), len(m.Volumes), len(m.Files))
	}
	return m.checkMade()
}

func (m *Manifest) checkFiles() error {
	if len(m.Files) > MaxFiles {
		return fmt.Errorf("%d secret files, at most %d are served", len(m.Files), MaxFiles)
	}
	for i, name := range m.Files {
		if err := CheckName(name); err != nil {
			return fmt.Errorf("secret file: %w", err)
		}
		if slices.Contains(m.Files[:i], name) {
			return fmt.Errorf("secret file %q is named twice", name)
		}
	}
	return nil
}

// checkToken never quotes the token: it is worth a job key.
func checkToken(t string) error {
	if t == "" || len(t) > MaxToken {
		return fmt.Errorf("a token of %d bytes, from 1 to %d are served", len(t), MaxToken)
	}
	for _, r := range t {
		if !plain(r) {
			return errors.New("a token holds something else than letters, digits and ._-")
		}
	}
	return nil
}

// CheckJobID wants 32 lower-case hexadecimal digits.
func CheckJobID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 16 || strings.ToLower(id) != id {
		return fmt.Errorf("job id %q is not 32 lower-case hexadecimal digits", id)
	}
	return nil
}

// CheckClass wants the name of a class of node.
func CheckClass(class string) error {
	if class != ClassDedicated && class != ClassOnDemand {
		return fmt.Errorf("class %q is neither %s nor %s", class, ClassDedicated, ClassOnDemand)
	}
	return nil
}

// CheckName wants a user's, a cluster's or a secret file's name: letters, digits and "._-",
// not beginning with '-' or '.', at most MaxName bytes.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName || name[0] == '-' || name[0] == '.' {
		return fmt.Errorf("%q is no name", name)
	}
	for _, r := range name {
		if !plain(r) {
			return fmt.Errorf("%q is no name: letters, digits and ._- are served", name)
		}
	}
	return nil
}

// CheckPath wants the path of a file, absolute or below the job's working
// directory, in its shortest form.
func CheckPath(p string) error {
	if err := checkText(p, MaxPath); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if p == "" || p == "." || p == "/" {
		return fmt.Errorf("path %q names no file", p)
	}
	if path.Clean(p) != p {
		return fmt.Errorf("path %q is not in its shortest form, %q", p, path.Clean(p))
	}
	if p == ".." || strings.HasPrefix(p, "../") {
		return fmt.Errorf("path %q leads out of the job's working directory: write an absolute path", p)
	}
	return nil
}

// CheckOutput wants the pattern of an output file: an absolute path in its
// shortest form in which % is followed by j (job id), x (job name), N (node), t
// (task of a step, 0 for the batch script), A and a (id and task of an array) or
// %, as sbatch means them, or by r (attempt: how often Slurm had requeued it).
// Whoever submits chooses the job's name, so the node refuses one that changes
// the directory.
func CheckOutput(p string) error {
	if err := checkText(p, MaxPath); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		return fmt.Errorf("output %q is not an absolute path in its shortest form", p)
	}
	if err := checkPattern(p, "jxNtAar%"); err != nil {
		return fmt.Errorf("output %w", err)
	}
	return nil
}

// checkText does not quote s: an argument may be private, and a refusal ends up
// in an output file that is not.
func checkText(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%d bytes, at most %d are served", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError {
			return errors.New("a control character")
		}
	}
	return nil
}
