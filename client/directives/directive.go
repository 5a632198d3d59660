package directives

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister/sealed"
)

// words lists the directives with an example each, for advice.
var words = []struct{ name, example string }{
	{"volume", "#CLOISTER volume=patients.luks:/data:ro"},
	{"image", "#CLOISTER image=analysis.sif"},
	{"secret", "#CLOISTER secret=pem:key.pem"},
	{"output", "#CLOISTER output=/results/slurm-%j.out"},
	{"class", "#CLOISTER class=on-demand"},
	{"expires", "#CLOISTER expires=7d"},
	{"requeue", "#CLOISTER requeue=1"},
	{"env", "#CLOISTER env=OMP_NUM_THREADS=4"},
}

const createExample = "#CLOISTER volume=results.luks:/results:rw,create,size=1G"

func example(name string) string {
	for _, w := range words {
		if w.name == name {
			return "write it as, for example: " + w.example
		}
	}
	return "write it as, for example: " + words[0].example
}

func (s *Script) directive(n int, line string) error {
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return refuse(n, example(""), "a #CLOISTER line begins with %q exactly", prefix)
	}
	name, value, ok := strings.Cut(strings.Trim(rest, " "), "=")
	if !slices.ContainsFunc(words, func(w struct{ name, example string }) bool { return w.name == name }) {
		if near := nearest(name); near != "" {
			return refuse(n, example(near), "unknown #CLOISTER line %q: did you mean %q?", name, near)
		}
		return refuse(n, example(""), "unknown #CLOISTER line %q: there are %s", name, names())
	}
	if !ok || value == "" {
		return refuse(n, example(name), "%s wants a value", name)
	}
	for i := 0; i < len(value); i++ {
		if value[i] < ' ' || value[i] == 0x7f {
			return refuse(n, example(name), "%s: a control character", name)
		}
	}
	var err error
	switch name {
	case "volume":
		err = s.volume(n, value)
	case "image":
		err = s.image(n, value)
	case "secret":
		err = s.secret(n, value)
	case "output":
		err = once(n, name, s.Output != "")
		s.Output = value
		if err == nil {
			err = asError(n, "the path must lie in a volume that the job writes; %j is the job id, %x its name, %N the node, %t the task, %A and %a the id and task of an array, %r the attempt; "+example(name), sealed.CheckOutput(value))
		}
	case "class":
		err = once(n, name, s.Class != "")
		s.Class = value
		if err == nil {
			err = asError(n, example(name), sealed.CheckClass(value))
		}
	case "expires":
		err = s.expires(n, value)
	case "requeue":
		err = s.requeue(n, value)
	case "env":
		err = s.env(n, value)
	}
	return err
}

// asError keeps a nil error nil.
func asError(n int, next string, err error) error {
	if err == nil {
		return nil
	}
	return refuse(n, next, "%v", err)
}

func once(n int, name string, seen bool) error {
	if !seen {
		return nil
	}
	return refuse(n, "leave one of them", "%s is given twice", name)
}

func (s *Script) volume(n int, value string) error {
	path, rest, ok1 := strings.Cut(value, ":")
	mount, options, ok2 := strings.Cut(rest, ":")
	if !ok1 || !ok2 {
		return refuse(n, example("volume"), "volume wants PATH:MOUNT:ro or PATH:MOUNT:rw")
	}
	if len(s.Volumes) == sealed.MaxVolumes {
		return refuse(n, "put more data into one volume", "more than %d volumes", sealed.MaxVolumes)
	}
	v := Volume{Line: n, Path: path, Mount: mount}
	if err := sealed.CheckPath(path); err != nil {
		return refuse(n, example("volume"), "%v", err)
	}
	if err := sealed.CheckMount(mount); err != nil {
		return refuse(n, "choose a mount point such as /data or /results", "%v", err)
	}
	if slices.ContainsFunc(s.Volumes, func(o Volume) bool { return o.Path == path }) {
		return refuse(n, "leave one of them", "volume %q is given twice", path)
	}
	for i, o := range strings.Split(options, ",") {
		if err := v.option(n, i, o); err != nil {
			return err
		}
	}
	switch {
	case v.Create && v.Mode != sealed.ReadWrite:
		return refuse(n, createExample, "a volume that the job makes must be rw")
	case v.Create && v.Size == 0:
		return refuse(n, createExample, "a volume that the job makes wants a size: it takes only the space that is used")
	case !v.Create && (v.Size != 0 || v.Plain):
		return refuse(n, createExample, "size= and integrity=none go with create")
	}
	s.Volumes = append(s.Volumes, v)
	return nil
}

func (v *Volume) option(n, i int, o string) error {
	name, value, _ := strings.Cut(o, "=")
	switch {
	case i == 0 && (o == sealed.ReadOnly || o == sealed.ReadWrite):
		v.Mode = o
	case i == 0:
		return refuse(n, example("volume"), "the mode %q is neither ro nor rw", o)
	case o == "create" && !v.Create:
		v.Create = true
	case o == "integrity=none" && !v.Plain:
		v.Plain = true
	case name == "size" && v.Size == 0:
		size, err := ParseSize(value)
		if err != nil {
			return refuse(n, createExample, "%v", err)
		}
		if size < sealed.MinCreate || size > sealed.MaxCreate {
			return refuse(n, createExample, "size %s is out of bounds: from 32M to 1024T are served", value)
		}
		v.Size = size
	default:
		return refuse(n, createExample, "unknown or repeated volume option %q: there are create, size= and integrity=none", o)
	}
	return nil
}

func (s *Script) image(n int, value string) error {
	if s.Image != nil {
		return refuse(n, "leave one of them", "image is given twice")
	}
	im := &Image{Line: n}
	im.Path, im.Mount, _ = strings.Cut(value, ":")
	if err := sealed.CheckPath(im.Path); err != nil {
		return refuse(n, example("image"), "%v", err)
	}
	const next = "write it as, for example: #CLOISTER image=analysis.sif:/image.sif"
	if strings.HasSuffix(value, ":") {
		return refuse(n, next, "image has an empty place after the colon")
	}
	if im.Mount != "" {
		if err := sealed.CheckImagePlace(im.Mount); err != nil {
			return refuse(n, next, "%v", err)
		}
	}
	s.Image = im
	return nil
}

func (s *Script) secret(n int, value string) error {
	name, file, ok := strings.Cut(value, ":")
	if !ok || file == "" {
		return refuse(n, example("secret"), "secret wants NAME:FILE; the job finds the file's content in "+sealed.SecretPlace+"/NAME")
	}
	if err := sealed.CheckName(name); err != nil {
		return refuse(n, example("secret"), "%v", err)
	}
	if slices.ContainsFunc(s.Secrets, func(o Secret) bool { return o.Name == name }) {
		return refuse(n, "leave one of them", "secret %q is given twice", name)
	}
	if len(s.Secrets) == sealed.MaxFiles {
		return refuse(n, "put more files into a volume", "more than %d secrets", sealed.MaxFiles)
	}
	s.Secrets = append(s.Secrets, Secret{Line: n, Name: name, File: file})
	return nil
}

func (s *Script) expires(n int, value string) error {
	if s.Expires != 0 {
		return once(n, "expires", true)
	}
	d, err := ParseLifetime(value)
	s.Expires = d
	return asError(n, example("expires"), err)
}

func (s *Script) requeue(n int, value string) error {
	if s.requeueLine != 0 {
		return once(n, "requeue", true)
	}
	times, err := strconv.ParseUint(value, 10, 32)
	if err != nil || times >= sealed.MaxRuns || strconv.FormatUint(times, 10) != value {
		return refuse(n, example("requeue"), "requeue=%s is not how often the job may be requeued: from 0 to %d", value, sealed.MaxRuns-1)
	}
	s.Requeue, s.requeueLine = int(times), n
	return nil
}

func (s *Script) env(n int, value string) error {
	name, text, ok := strings.Cut(value, "=")
	if !ok {
		return refuse(n, example("env"), "env wants NAME=VALUE")
	}
	if _, twice := s.Environment[name]; twice {
		return once(n, "env "+name, true)
	}
	s.Environment[name] = text
	return asError(n, example("env"), sealed.CheckVariable(name, text))
}

// ParseSize reads a size such as 500M, 20G or 1T, in powers of 1024.
func ParseSize(s string) (int64, error) {
	units := map[byte]int64{'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
	if s == "" {
		return 0, fmt.Errorf("size wants a value such as 1G")
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 32)
	if !ok || err != nil || n <= 0 || strconv.FormatInt(n, 10) != s[:len(s)-1] {
		return 0, fmt.Errorf("%q is no size: write 500M, 20G or 1T", s)
	}
	return n * unit, nil
}

// ParseLifetime reads a time such as 90s, 30m, 12h or 7d, at most a year.
func ParseLifetime(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	if s == "" {
		return 0, fmt.Errorf("a lifetime wants a value such as 7d")
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 32)
	if !ok || err != nil || n <= 0 || strconv.FormatInt(n, 10) != s[:len(s)-1] {
		return 0, fmt.Errorf("%q is no lifetime: write 30m, 12h or 7d", s)
	}
	if d := time.Duration(n) * unit; n <= int64(MaxLifetime/unit) {
		return d, nil
	}
	return 0, fmt.Errorf("%q is too long: at most %dd are served", s, MaxLifetime/(24*time.Hour))
}

// MaxLifetime is a year, as long as a KMS token of ours can live.
const MaxLifetime = 365 * 24 * time.Hour

func names() string {
	var all []string
	for _, w := range words {
		all = append(all, w.name)
	}
	return strings.Join(all, ", ")
}

// nearest returns the directive that differs from name in at most two letters,
// or "".
func nearest(name string) string {
	best, distance := "", 3
	for _, w := range words {
		if d := editDistance(strings.ToLower(name), w.name); d < distance {
			best, distance = w.name, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
