package sealed

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/secret"
	"cloister/volume/luks2"
)

// withRuns makes the test manifest one of several runs.
func withRuns(t testing.TB, runs *Runs) *Manifest {
	t.Helper()
	m := testManifest(t)
	runSeveralTimes(m, runs)
	return m
}

func runSeveralTimes(m *Manifest, runs *Runs) {
	m.Runs, m.Tokens = runs, nil
	for i := range runs.Count() {
		m.Tokens = append(m.Tokens, "s.run"+strconv.Itoa(i))
	}
	name := "results"
	if runs.Array() {
		name += "-%a"
	}
	if runs.Requeues() > 0 {
		name += "-%r"
	}
	m.Volumes[1].Path, m.Volumes[1].Label = "/shared/alice/"+name+".luks", name
}

func TestRunsAreInOrderOfTaskAndAttempt(t *testing.T) {
	for _, c := range []struct {
		runs *Runs
		want []string
		text string
	}{
		{nil, []string{"job"}, ""},
		{&Runs{Attempts: 3}, []string{"job", "jobr1", "jobr2"}, ""},
		{&Runs{Tasks: []uint32{0, 2, 3, 4, 9}, Attempts: 1}, []string{"job_0", "job_2", "job_3", "job_4", "job_9"}, "0,2-4,9"},
		{&Runs{Tasks: []uint32{7, 8}, Attempts: 2}, []string{"job_7", "job_7r1", "job_8", "job_8r1"}, "7-8"},
	} {
		var got []string
		for _, r := range c.runs.All() {
			got = append(got, r.ID("job"))
		}
		if !slices.Equal(got, c.want) || len(got) != c.runs.Count() || c.runs.String() != c.text {
			t.Errorf("%+v: %q, %d, %q", c.runs, got, c.runs.Count(), c.runs)
		}
	}
}

func TestEachRunHasItsOwnTokenFileAndUUID(t *testing.T) {
	m := withRuns(t, &Runs{Tasks: []uint32{1, 3}, Attempts: 2})
	line, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if m, err = ParseManifest(line); err != nil {
		t.Fatal(err)
	}
	tokens, paths, uuids := make(map[string]bool), make(map[string]bool), map[string]bool{m.Volumes[1].Pinned.UUID: true}
	for i, r := range m.Runs.All() {
		if err := m.CheckRun(r); err != nil {
			t.Fatal(err)
		}
		own, err := m.ForRun(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Validate(); err != nil {
			t.Errorf("the manifest of run %d: %v", i, err)
		}
		v := own.Volumes[1]
		if want := fmt.Sprintf("/shared/alice/results-%d-%d.luks", r.Task, r.Attempt); v.Path != want || v.Label != fmt.Sprintf("results-%d-%d", r.Task, r.Attempt) {
			t.Errorf("run %d has the file %q, label %q", i, v.Path, v.Label)
		}
		if own.Volumes[0] != m.Volumes[0] {
			t.Error("a volume for reading is another for a run")
		}
		if err := luks2.ValidUUID(v.Pinned.UUID); err != nil || v.Pinned.UUID[14] != '8' || !strings.ContainsRune("89ab", rune(v.Pinned.UUID[19])) {
			t.Errorf("UUID %s: %v", v.Pinned.UUID, err)
		}
		if own.Tokens[0] != "s.run"+strconv.Itoa(i) || len(own.Tokens) != 1 {
			t.Errorf("run %d has the tokens %q", i, own.Tokens)
		}
		if tokens[own.Tokens[0]] || paths[v.Path] || uuids[v.Pinned.UUID] {
			t.Errorf("run %d shares with another", i)
		}
		tokens[own.Tokens[0]], paths[v.Path], uuids[v.Pinned.UUID] = true, true, true
	}
	if !strings.Contains(m.Volumes[1].Path, "%a") {
		t.Error("the manifest itself was changed")
	}
	if _, err := m.ForRun(Run{Task: 2}); err == nil {
		t.Error("a manifest for a run that is none")
	}
}

func TestAJobThatRunsOnceIsItsOwnRun(t *testing.T) {
	m := testManifest(t)
	own, err := m.ForRun(Run{Task: NoTask})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := own.Marshal()
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("%s, %v", b, err)
	}
	s := testSecrets()
	if err := m.RunSecrets(s, Run{Task: NoTask}); err != nil || !s.Volumes[1].VolumeKey.Equal(testSecrets().Volumes[1].VolumeKey) {
		t.Errorf("its keys are others: %v", err)
	}
}

func TestARunThatWasNotSealedIsRefused(t *testing.T) {
	once, again := testManifest(t), withRuns(t, &Runs{Attempts: 2})
	array, both := withRuns(t, &Runs{Tasks: []uint32{1, 3}, Attempts: 1}), withRuns(t, &Runs{Tasks: []uint32{1, 3}, Attempts: 3})
	for _, c := range []struct {
		m     *Manifest
		run   Run
		cause string
	}{
		{once, Run{Task: 0}, "submitted as an array"},
		{once, Run{Task: NoTask, Attempt: 1}, "requeued this job 1 times, it was sealed for 0"},
		{again, Run{Task: 1}, "submitted as an array"},
		{again, Run{Task: NoTask, Attempt: 2}, "requeued this job 2 times, it was sealed for 1"},
		{again, Run{Task: NoTask, Attempt: 1<<32 - 1}, "sealed for 1"},
		{array, Run{Task: NoTask}, "an array of tasks 1,3, and submitted as none"},
		{array, Run{Task: 2}, "task 2 is none of those"},
		{array, Run{Task: 0xfffffffe}, "none of those"},
		{array, Run{Task: 1, Attempt: 1}, "requeued this job 1 times"},
		{both, Run{Task: 3, Attempt: 3}, "requeued this job 3 times, it was sealed for 2"},
	} {
		err := c.m.CheckRun(c.run)
		var r *Refusal
		if !errors.As(err, &r) || !errors.Is(err, ErrOtherRun) || !strings.Contains(r.Cause, c.cause) || r.Next == "" {
			t.Errorf("%+v: %v", c.run, err)
		}
		if _, err := c.m.ForRun(c.run); err == nil {
			t.Errorf("%+v has a manifest", c.run)
		}
	}
}

func TestRunsThatNobodyShouldSealAreRefused(t *testing.T) {
	array := &Runs{Tasks: []uint32{1, 3}, Attempts: 1}
	for name, c := range map[string]struct {
		runs  *Runs
		alter func(m *Manifest)
	}{
		"one run":                {&Runs{Attempts: 1}, nil},
		"no attempt":             {&Runs{Tasks: []uint32{1}}, nil},
		"negative attempts":      {&Runs{Tasks: []uint32{1}, Attempts: -1}, nil},
		"out of order":           {&Runs{Tasks: []uint32{3, 1}, Attempts: 1}, nil},
		"a task twice":           {&Runs{Tasks: []uint32{1, 1}, Attempts: 1}, nil},
		"a task beyond Slurm's":  {&Runs{Tasks: []uint32{MaxTask + 1}, Attempts: 1}, nil},
		"too many":               {&Runs{Attempts: MaxRuns + 1}, nil},
		"too many together":      {&Runs{Tasks: make([]uint32, 3), Attempts: 1 << 62}, func(m *Manifest) {}},
		"a token too few":        {array, func(m *Manifest) { m.Tokens = m.Tokens[1:] }},
		"a token too many":       {array, func(m *Manifest) { m.Tokens = append(m.Tokens, "s.more") }},
		"one volume for all":     {array, func(m *Manifest) { m.Volumes[1].Path = "results.luks" }},
		"a percent sign":         {array, func(m *Manifest) { m.Volumes[1].Path = "results-%%a.luks" }},
		"an unknown letter":      {array, func(m *Manifest) { m.Volumes[1].Path = "results-%a-%j.luks" }},
		"an attempt without":     {array, func(m *Manifest) { m.Volumes[1].Path = "results-%a-%r.luks" }},
		"a task without":         {&Runs{Attempts: 2}, func(m *Manifest) { m.Volumes[1].Path = "results-%a-%r.luks" }},
		"no attempt in the name": {&Runs{Attempts: 2}, func(m *Manifest) { m.Volumes[1].Path = "results.luks" }},
		"two runs, one file":     {&Runs{Tasks: []uint32{1, 11}, Attempts: 12}, func(m *Manifest) { m.Volumes[1].Path = "r%a%r" }},
		"a file of another":      {array, func(m *Manifest) { m.Volumes[0].Path, m.Volumes[1].Path = "r-3", "r-%a" }},
		"a name too long":        {array, func(m *Manifest) { m.Volumes[1].Path = strings.Repeat("x", MaxPath-2) + "%a" }},
		"an old volume":          {array, func(m *Manifest) { m.Volumes[1].Path, m.Volumes[1].Create, m.Volumes[1].Size = "r", false, 0 }},
	} {
		m := withRuns(t, &Runs{Attempts: 2})
		if c.alter != nil {
			m = withRunsUnchecked(t, c.runs)
			c.alter(m)
		} else {
			m.Runs = c.runs
		}
		if err := m.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, c := range []struct{ what, path, stdout string }{{"a task", "results.luks", "/results/%a"}, {"an array", "results.luks", "/results/%A.out"}, {"a task in the volume", "r-%a", "/results/out"}} {
		m := testManifest(t)
		m.Volumes[1].Path, m.Stdout = c.path, c.stdout
		if err := m.Validate(); err == nil {
			t.Errorf("%s of a job that runs once: accepted", c.what)
		}
	}
	m := withRuns(t, array)
	m.Stdout = "/results/%A_%a-%r.out"
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}

// withRunsUnchecked is withRuns for more runs than there are.
func withRunsUnchecked(t testing.TB, runs *Runs) *Manifest {
	if runs.validate() == nil {
		return withRuns(t, runs)
	}
	m := withRuns(t, &Runs{Attempts: 2})
	m.Runs = runs
	return m
}

func TestRunsHaveOneEncoding(t *testing.T) {
	line, err := withRuns(t, &Runs{Tasks: []uint32{1, 3}, Attempts: 1}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := string(line)
	again, err := withRuns(t, &Runs{Attempts: 2}).Marshal()
	if err != nil || !strings.Contains(string(again), `"runs":{"tasks":[],"attempts":2}`) {
		t.Errorf("%s, %v", again, err)
	}
	const runs = `"runs":{"tasks":[1,3],"attempts":1}`
	for _, with := range []string{
		`"runs":{"tasks":[1, 3],"attempts":1}`, `"runs":{"attempts":1,"tasks":[1,3]}`, `"runs":{"tasks":[3,1],"attempts":1}`, `"runs":{"tasks":[1,3],"attempts":1,"x":0}`,
		`"runs":{"tasks":[1,3]}`, `"runs":{"tasks":[1,-3],"attempts":1}`, `"runs":{"tasks":[1,3],"attempts":1.0}`, `"runs":null`, `"runs":{"tasks":["1","3"],"attempts":1}`,
	} {
		if _, err := ParseManifest([]byte(replaceOnce(t, s, runs, with))); err == nil {
			t.Errorf("%s: accepted", with)
		}
	}
	if _, err := ParseManifest([]byte(strings.Replace(string(again), `"tasks":[]`, `"tasks":null`, 1))); err == nil {
		t.Error("null for no tasks: accepted")
	}
}

func TestTheKeysOfARunTellNothingOfAnothers(t *testing.T) {
	m := withRuns(t, &Runs{Tasks: []uint32{1, 2}, Attempts: 2})
	seen := map[string]string{}
	for _, length := range []int{64, 96} {
		base := VolumeSecret{VolumeKey: secret.New(bytes.Repeat([]byte{2}, length)), KeyslotKey: secret.New(bytes.Repeat([]byte{byte(length)}, 32))}
		for _, r := range m.Runs.All() {
			own, err := base.ForRun(m.Job, r)
			if err != nil {
				t.Fatal(err)
			}
			if own.VolumeKey.Len() != length || own.KeyslotKey.Len() != 32 {
				t.Errorf("keys of %d and %d bytes", own.VolumeKey.Len(), own.KeyslotKey.Len())
			}
			for _, k := range []string{string(own.VolumeKey.Reveal()[:32]), string(own.VolumeKey.Reveal()[32:64]), string(own.KeyslotKey.Reveal())} {
				if was, ok := seen[k]; ok {
					t.Errorf("%s has a key of %s", r.ID("job"), was)
				}
				seen[k] = r.ID("job")
			}
		}
		other, err := base.ForRun(hex.EncodeToString(make([]byte, 16)), m.Runs.All()[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := seen[string(other.VolumeKey.Reveal()[:32])]; ok {
			t.Error("another job has the same keys")
		}
	}
	s := testSecrets()
	if err := m.RunSecrets(s, m.Runs.All()[3]); err != nil {
		t.Fatal(err)
	}
	if !s.Volumes[0].VolumeKey.Equal(testSecrets().Volumes[0].VolumeKey) || s.Volumes[1].VolumeKey.Equal(testSecrets().Volumes[1].VolumeKey) {
		t.Error("the wrong volume has keys of its own")
	}
	if err := m.RunSecrets(&Secrets{}, m.Runs.All()[0]); !errors.Is(err, ErrSecrets) {
		t.Errorf("no secrets at all: %v", err)
	}
	if _, err := (VolumeSecret{}).ForRun(m.Job, m.Runs.All()[0]); err == nil {
		t.Error("keys were derived from none")
	}
}

// The values of docs/format.md, computed by other programs: openssl kdf and
// Python's hashlib.
func TestTheKeysOfARunAreThoseOfTheSpecification(t *testing.T) {
	base := VolumeSecret{VolumeKey: secret.New(bytes.Repeat([]byte{2}, 64)), KeyslotKey: secret.New(bytes.Repeat([]byte{3}, 32))}
	own, err := base.ForRun(testJob, Run{Task: 3, Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(own.VolumeKey.Reveal()); got != "147748eded169b523bc62d7f58e9c33942d3682049dd805e9108a1eaf1911578bbd6662963a65448d1866b1989b6b4e465ad2fe815326ae080627e2fc47a361c" {
		t.Errorf("volume key %s", got)
	}
	if got := hex.EncodeToString(own.KeyslotKey.Reveal()); got != "af878c2e116519149cb7d27895807bd864373325a71681d40c21117d23eeae8e" {
		t.Errorf("keyslot key %s", got)
	}
	if got := (Run{Task: 3, Attempt: 1}).uuid("3b0f3c0e-8f4e-4b7e-9a50-0a5a4b0d8d63"); got != "389fcca3-6fbf-8e1d-9e4f-e65547a25f8f" {
		t.Errorf("UUID %s", got)
	}
}
