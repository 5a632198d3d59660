package noded

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"cloister/sealed"
)

// output fills in the patterns of one of the job's output files, which must
// then still lie in a volume that it writes.
func (d *Daemon) output(pattern string, a *admission) (string, error) {
	file, err := expand(pattern, place{a.request.Job, a.request.ArrayJob, a.run, a.request.Name, d.node})
	if err != nil || file == "/dev/null" {
		return file, err
	}
	if !slices.ContainsFunc(a.manifest.Volumes, func(v sealed.Volume) bool {
		return v.Mode == sealed.ReadWrite && file != v.Mount && sealed.Within(file, v.Mount)
	}) {
		return "", refusal(fmt.Sprintf("the output file %.200q would lie outside of the job's volumes", file), nextName)
	}
	return file, nil
}

const nextName = "submit with another --job-name, without slashes, or leave %x out of the sealed job's output"

// A place is what the patterns of an output file stand for.
type place struct {
	job, array uint32
	run        sealed.Run
	name, node string
}

// expand fills in the patterns that sealed.CheckOutput allows, which mean what
// they mean to sbatch. The job's name is whatever was submitted: it must not
// lead to another directory.
func expand(pattern string, p place) (string, error) {
	if strings.Contains(strings.ReplaceAll(pattern, "%%", ""), "%x") {
		if p.name == "" || strings.ContainsFunc(p.name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }) {
			return "", refusal(fmt.Sprintf("the job's name %q cannot be a part of its output file's", p.name), nextName)
		}
	}
	out := strings.NewReplacer("%%", "%", "%j", fmt.Sprint(p.job), "%x", p.name, "%N", p.node, "%t", "0",
		"%A", fmt.Sprint(p.array), "%a", fmt.Sprint(p.run.Task), "%r", fmt.Sprint(p.run.Attempt)).Replace(pattern)
	if path.Clean(out) != out || len(out) > sealed.MaxPath {
		return "", refusal(fmt.Sprintf("the output file %.200q is no path in its shortest form", out), nextName)
	}
	return out, nil
}
