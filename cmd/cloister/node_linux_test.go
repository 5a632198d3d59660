package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/client/advice"
	"cloister/noded/audit"
	"cloister/noded/status"
)

func cli(args ...string) (exit int, out, errs string) {
	var o, e bytes.Buffer
	exit = run(args, strings.NewReader(""), &o, &e)
	return exit, o.String(), e.String()
}

func TestAuditVerifySaysWhichRecordWasChangedAndWhatTheHeadIs(t *testing.T) {
	dir := t.TempDir()
	l := audit.Open(audit.Config{Dir: dir, Boot: strings.Repeat("0", 32), Node: "s1", Version: "test", Journal: func(audit.Record, audit.Head) {}})
	for _, e := range []audit.Entry{{Event: audit.NodeStarted}, {Event: audit.Trouble, Incident: audit.Stranger}, {Event: audit.Admitted, User: "alice"}, {Event: audit.Released}} {
		if _, err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	head := l.State().Head.String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	exit, out, _ := cli("audit", "verify", dir)
	if want := "records 1 to 5 in 1 file\nincidents: 1, a process came up that does not belong to the job (stranger)\nhead " + head + "\nwhole\n"; exit != advice.OK || out != want {
		t.Errorf("exit %d, printed %q, want %q", exit, out, want)
	}
	if exit, out, _ := cli("audit", "verify", dir, "--head", head); exit != advice.OK || !strings.HasSuffix(out, "holds the record that was noted\n") {
		t.Errorf("exit %d, printed %q", exit, out)
	}
	if exit, _, errs := cli("audit", "verify", dir, "--head", "5:xyz"); exit != advice.Usage || !strings.Contains(errs, "not a head") {
		t.Errorf("a head that is none: exit %d, %q", exit, errs)
	}
	if exit, _, _ := cli("audit", "verify", t.TempDir()); exit != advice.Failure {
		t.Errorf("no records: exit %d", exit)
	}
	file, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(file) != 1 {
		t.Fatal(file, err)
	}
	b, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file[0], bytes.Replace(b, []byte("alice"), []byte("malic"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, out, errs := cli("audit", "verify", dir)
	if exit != advice.Refused || !strings.Contains(out, "fault: a record after record 3 was changed") || !strings.Contains(errs, "not as the node wrote them\nnext: ") {
		t.Errorf("exit %d, printed %q and %q", exit, out, errs)
	}
}

// aNode answers as it is told to.
type aNode struct {
	s *status.Status
	r *status.Recovery
}

func (n aNode) Status() *status.Status                   { return n.s }
func (n aNode) Retry(context.Context) *status.Recovery   { return n.r }
func (n aNode) Release(context.Context) *status.Recovery { return n.r }

// serving is the path of a socket where a node answers.
func serving(t *testing.T, n aNode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = status.Serve(t.Context(), l, n) }()
	return path
}

func TestTheStatusOfANodeIsItsExitStatusToo(t *testing.T) {
	for _, c := range []struct {
		s    status.Status
		exit int
		errs string
	}{
		{status.Status{State: status.InService}, advice.OK, ""},
		{status.Status{State: status.Fenced, Fence: &status.Fence{Reason: "a mess", Since: time.Now()}}, advice.Refused, "cloister: this node is out of service: a mess\nnext: mend what"},
		{status.Status{State: status.Unfit, Faults: []string{"swap is on"}}, advice.Unfit, "cloister: this node refuses sealed jobs: swap is on\nnext: mend"},
	} {
		c.s.Format, c.s.Node = status.Format, "s1"
		path := serving(t, aNode{s: &c.s})
		exit, out, errs := cli("node", "status", "--socket", path)
		if exit != c.exit || !strings.HasPrefix(out, "node       s1") || !strings.HasPrefix(errs, c.errs) {
			t.Errorf("%s: exit %d, printed %q and %q", c.s.State, exit, out, errs)
		}
		exit, out, _ = cli("node", "status", "--json", "--socket", path)
		if exit != c.exit || !json.Valid([]byte(out)) {
			t.Errorf("%s as JSON: exit %d, printed %q", c.s.State, exit, out)
		}
	}
	exit, _, errs := cli("node", "status", "--socket", filepath.Join(t.TempDir(), "none"))
	if exit != advice.Failure || !strings.Contains(errs, "does not answer") || !strings.Contains(errs, "next: run it on a secure node") {
		t.Errorf("no node: exit %d, %q", exit, errs)
	}
}

func TestARecoverySaysEachThingThatItDid(t *testing.T) {
	path := serving(t, aNode{r: &status.Recovery{Lines: []status.Line{{What: "undoing"}, {What: "closing", Error: "busy"}}, Next: "reboot"}})
	exit, out, errs := cli("node", "recover", "--socket", path)
	if exit != advice.Refused || out != "ok      undoing\nfailed  closing: busy\n" || !strings.HasSuffix(errs, "next: reboot\n") {
		t.Errorf("exit %d, printed %q and %q", exit, out, errs)
	}
	path = serving(t, aNode{r: &status.Recovery{Lines: []status.Line{{What: "undoing"}}, Recovered: true, Next: "scontrol"}})
	if exit, out, _ := cli("node", "recover", "--socket", path); exit != advice.OK || !strings.HasSuffix(out, "in service\nnext: scontrol\n") {
		t.Errorf("exit %d, printed %q", exit, out)
	}
}
