package noded

import (
	"strings"
	"testing"

	"cloister/noded/handoff"
	"cloister/sealed"
)

func TestAnOutputPatternMeansWhatItMeansToSbatch(t *testing.T) {
	for pattern, want := range map[string]string{
		"/results/slurm-%j.out": "/results/slurm-17.out", "/results/%x-%N.%t": "/results/fit-s2.0", "/results/%%j": "/results/%j",
		"/results/%%x%%%x": "/results/%x%fit", "/dev/null": "/dev/null",
		"/results/slurm-%A_%a.out": "/results/slurm-15_3.out", "/results/%r": "/results/2",
	} {
		if err := sealed.CheckOutput(pattern); err != nil {
			t.Errorf("%s cannot be sealed: %v", pattern, err)
		}
		if got, err := expand(pattern, place{17, 15, sealed.Run{Task: 3, Attempt: 2}, "fit", "s2"}); err != nil || got != want {
			t.Errorf("%s became %q, %v", pattern, got, err)
		}
	}
}

func TestAJobsNameDoesNotLeadItsOutputElsewhere(t *testing.T) {
	for name, pattern := range map[string]string{
		"../../shared/x": "/results/%x", "a/b": "/results/%x", "/": "/results/%x", "..": "/results/%x/out", ".": "/results/.%x/out",
		"": "/results/%x", "a\nb": "/results/%x", strings.Repeat("x", sealed.MaxPath): "/results/%x",
	} {
		if got, err := expand(pattern, place{job: 1, name: name, node: "s2"}); err == nil {
			t.Errorf("job name %.20q in %s became %.100q", name, pattern, got)
		}
	}
	if got, err := expand("/results/%%x", place{job: 1, name: "a/b", node: "s2"}); err != nil || got != "/results/%x" {
		t.Errorf("a name that is not used counts: %q, %v", got, err)
	}
}

func TestAnOutputStaysInAVolumeThatTheJobWrites(t *testing.T) {
	d := &Daemon{node: "s2"}
	a := func(name string) *admission {
		a := &admission{manifest: &sealed.Manifest{Volumes: []sealed.Volume{{Mount: "/data", Mode: sealed.ReadOnly}, {Mount: "/results", Mode: sealed.ReadWrite}}}}
		a.request = request(name)
		return a
	}
	if got, err := d.output("/results/%x", a("fit")); err != nil || got != "/results/fit" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := d.output("/dev/null", a("")); err != nil || got != "/dev/null" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, pattern := range []string{"/%x", "/data/%x", "/shared/%x"} {
		if got, err := d.output(pattern, a("results")); err == nil {
			t.Errorf("%s became %q", pattern, got)
		}
	}
}

func request(name string) *handoff.Request { return &handoff.Request{Job: 1, Name: name} }
