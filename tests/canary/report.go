package canary

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"cloister/tests/canary/search"
)

const plantedName = "planted"

func (p planted) needles() []search.Needle {
	out := []search.Needle{{Name: plantedName, Value: []byte(p.value)}}
	if p.gzip != "" {
		out = append(out, search.Needle{Name: plantedName + " in gzip", Value: []byte(p.gzip)}, search.Needle{Name: plantedName + " in zstd", Value: []byte(p.zstd)})
	}
	return out
}

// missing are the forms in which the planted value was not found.
func (o outcome) missing() (forms []string, want int) {
	count := o.report.Count()
	p := o.place.planted
	for _, f := range p.forms {
		want++
		if count[plantedName][f] == 0 {
			forms = append(forms, f)
		}
	}
	if p.gzip != "" {
		want += 2
		if count[plantedName+" in gzip"]["gzip:raw"] == 0 {
			forms = append(forms, "gzip")
		}
		if count[plantedName+" in zstd"]["zstd:raw"] == 0 {
			forms = append(forms, "zstd")
		}
	}
	return forms, want
}

// report writes the table, and all hits under it. What is public by design (#SBATCH lines, names of volumes, sizes,
// times: docs/threat-model.md) holds none of the values, so each hit is a leak.
func (f findings) report(out io.Writer) error {
	kinds := []string{kindWords, kindKeys, kindJobKey, kindTokens}
	fmt.Fprintf(out, "\n%-24s %9s %7s %9s", "place", "MiB", "packed", "planted")
	for _, k := range kinds {
		fmt.Fprintf(out, " %12s", k)
	}
	fmt.Fprintln(out)
	var errs []error
	if len(f) == 0 {
		errs = append(errs, errors.New("no place was searched"))
	}
	var details strings.Builder
	for _, o := range f {
		missing, want := o.missing()
		fmt.Fprintf(out, "%-24s %9.1f %7d %9s", o.place.name, float64(o.report.Bytes)/(1<<20), o.report.Members, fmt.Sprintf("%d/%d", want-len(missing), want))
		if len(missing) > 0 {
			errs = append(errs, fmt.Errorf("%s: what was planted was not found as %s", o.place.name, strings.Join(missing, ", ")))
		}
		for _, k := range kinds {
			n := 0
			for _, h := range o.report.Hits {
				if strings.HasPrefix(h.Needle, k+": ") {
					n++
					if n <= 40 {
						fmt.Fprintf(&details, "%s: %s as %s at %#x\n", o.place.name, h.Needle, h.Form, h.Offset)
					}
				}
			}
			fmt.Fprintf(out, " %12d", n)
			if n > 0 {
				errs = append(errs, fmt.Errorf("%s: %d times %s", o.place.name, n, k))
			}
		}
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, "\n"+details.String())
	return errors.Join(errs...)
}
