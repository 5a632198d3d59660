package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cloister/sealed"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// honest is a job that the shortest policy admits.
func honest() (*Policy, *sealed.Manifest, Facts) {
	p := defaults()
	p.Format, p.Class, p.Cluster = 1, OnDemand, "lab"
	m := &sealed.Manifest{
		Format: 1, Job: strings.Repeat("0", 32), User: "alice", Cluster: "lab", Class: "on-demand",
		Created: noon.Add(-time.Hour), Expires: noon.Add(24 * time.Hour),
		Arguments: []string{"--fold", "5"}, Environment: map[string]string{"THREADS": "2"},
		Volumes: []sealed.Volume{
			{Path: "patients.luks", Mount: "/data", Mode: sealed.ReadOnly},
			{Path: "results.luks", Mount: "/results", Mode: sealed.ReadWrite, Create: true, Size: 1 << 30},
		},
		Image: &sealed.Image{Path: "analysis.sif", Size: 1 << 20},
	}
	return &p, m, Facts{Now: noon, Nodes: 1, Arguments: []string{"--fold", "5"}}
}

func TestAnHonestJobIsAdmitted(t *testing.T) {
	p, m, f := honest()
	if err := p.Admit(m, f); err != nil {
		t.Error(err)
	}
	p.Images.MaxSize, m.Image = 1, &sealed.Image{Path: "/data/analysis.sif"}
	if err := p.Admit(m, f); err != nil {
		t.Errorf("with the image in a volume: %v", err)
	}
	m.Image, m.Volumes, m.Arguments, f.Arguments = nil, nil, nil, []string{}
	if err := p.Admit(m, f); err != nil {
		t.Errorf("without volumes, image and arguments: %v", err)
	}
}

func TestWhatThePolicyDoesNotAllowIsRefusedWithCauseAndNextStep(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   error
		cause  string
		change func(*Policy, *sealed.Manifest, *Facts)
	}{
		{"another cluster", sealed.ErrOtherCluster, "cluster", func(p *Policy, m *sealed.Manifest, f *Facts) { m.Cluster = "other" }},
		{"another class", sealed.ErrOtherClass, "nodes", func(p *Policy, m *sealed.Manifest, f *Facts) { m.Class = "dedicated" }},
		{"for on-demand on a dedicated node", sealed.ErrOtherClass, "nodes", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Class = Dedicated }},
		{"expired this moment", sealed.ErrExpired, "expired", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Now = m.Expires }},
		{"from the future", sealed.ErrClock, "future", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Now = m.Created.Add(-2 * time.Hour) }},
		{"two nodes", ErrForbidden, "2 nodes", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Nodes = 2 }},
		{"no node", ErrForbidden, "0 nodes", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Nodes = 0 }},
		{"an argument more", sealed.ErrOtherArguments, "3 arguments", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Arguments = append(f.Arguments, "x") }},
		{"an argument less", sealed.ErrOtherArguments, "1 arguments", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Arguments = f.Arguments[:1] }},
		{"another argument", sealed.ErrOtherArguments, "arguments", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Arguments = []string{"--fold", "6"} }},
		{"arguments split otherwise", sealed.ErrOtherArguments, "arguments", func(p *Policy, m *sealed.Manifest, f *Facts) { f.Arguments = []string{"--fold 5"} }},
		{"too long an expiry", ErrForbidden, "expires 31d", func(p *Policy, m *sealed.Manifest, f *Facts) { m.Expires = m.Created.Add(31 * 24 * time.Hour) }},
		{"too many arguments", ErrForbidden, "2 arguments", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Jobs.MaxArguments = 1 }},
		{"too many variables", ErrForbidden, "1 environment", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Jobs.MaxEnvironment = 0 }},
		{"too many volumes", ErrForbidden, "2 volumes", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Volumes.MaxVolumes = 1 }},
		{"a volume made where none is", ErrForbidden, "makes none", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Volumes.AllowCreate = false }},
		{"an unauthenticated volume", ErrForbidden, "not authenticated", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Volumes.AllowUnauthenticated = false }},
		{"too large a volume", ErrForbidden, "1G", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Volumes.MaxCreateSize = 1<<30 - 1 }},
		{"no image where one is needed", ErrForbidden, "have an image", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Images.Required, m.Image = true, nil }},
		{"an image in a volume where none is taken", ErrForbidden, "lies in a volume", func(p *Policy, m *sealed.Manifest, f *Facts) {
			p.Images.InVolumes, m.Image = ImagesRefused, &sealed.Image{Path: "/data/analysis.sif"}
		}},
		{"too large an image", ErrForbidden, "image has", func(p *Policy, m *sealed.Manifest, f *Facts) { p.Images.MaxSize = 1<<20 - 1 }},
	} {
		p, m, f := honest()
		c.change(p, m, &f)
		err := p.Admit(m, f)
		var r *sealed.Refusal
		switch {
		case err == nil:
			t.Errorf("%s: admitted", c.name)
		case !errors.As(err, &r) || !errors.Is(err, c.kind):
			t.Errorf("%s: %v is not a refusal of its kind", c.name, err)
		case !strings.Contains(r.Cause, c.cause) || r.Next == "" || strings.Contains(r.Cause+r.Next, "\n"):
			t.Errorf("%s: %q, next %q", c.name, r.Cause, r.Next)
		}
	}
}

func TestARefusalDoesNotRepeatTheManifest(t *testing.T) {
	p, m, f := honest()
	m.Arguments = []string{"diagnosis-F20"}
	p.Volumes.MaxVolumes = 1
	for _, err := range []error{p.Admit(m, f), func() error { f.Arguments = m.Arguments; return p.Admit(m, f) }()} {
		if err == nil || strings.Contains(err.Error(), "diagnosis") || strings.Contains(err.Error(), "patients") {
			t.Errorf("%v", err)
		}
	}
}
