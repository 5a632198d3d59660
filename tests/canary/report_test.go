package canary

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"cloister/tests/canary/search"
)

// table searches one place that holds exactly content.
func table(t *testing.T, p planted, content []byte, secrets ...search.Needle) (string, error) {
	t.Helper()
	m, err := search.NewMatcher(append(p.needles(), secrets...))
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Search(t.Context(), bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = findings{{place: &place{name: "somewhere", planted: p}, report: r}}.report(&out)
	return out.String(), err
}

func TestAPlaceWithAllThatWasPlantedAndNoSecretIsClean(t *testing.T) {
	for _, text := range []bool{false, true} {
		p := newPlanted(text)
		content := []byte(p.line())
		if !text {
			var err error
			if content, err = p.blob(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := table(t, p, content, search.Needle{Name: kindTokens + ": one", Value: []byte(word())}); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

func TestASecretInAnyFormMakesTheReportAnError(t *testing.T) {
	p := newPlanted(false)
	blob, err := p.blob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	secret := word()
	for _, kind := range []string{kindWords, kindKeys, kindJobKey, kindTokens} {
		for _, form := range search.Forms {
			content := append(bytes.Clone(blob), search.Encode(form, []byte(secret))...)
			out, err := table(t, p, content, search.Needle{Name: kind + ": it", Value: []byte(secret)})
			if err == nil || !strings.Contains(err.Error(), "somewhere: 1 times "+kind) {
				t.Errorf("%s as %s: %v\n%s", kind, form, err, out)
			}
		}
	}
}

func TestAPlantedFormThatIsNotFoundMakesTheReportAnError(t *testing.T) {
	p := newPlanted(false)
	blob, err := p.blob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range p.forms {
		content := bytes.ReplaceAll(blob, search.Encode(form, []byte(p.value)), []byte("gone"))
		if out, err := table(t, p, content); err == nil || !strings.Contains(err.Error(), form) {
			t.Errorf("%s: %v\n%s", form, err, out)
		}
	}
	if _, err := table(t, p, blob[:len(blob)-20]); err == nil || !strings.Contains(err.Error(), "zstd") {
		t.Errorf("cut zstd: %v", err)
	}
	if err := (findings{}).report(io.Discard); err == nil {
		t.Error("a report of no place at all is no error")
	}
}
