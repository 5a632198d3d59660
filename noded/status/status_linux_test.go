package status

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func fenced() *Status {
	return &Status{
		Format: Format, Node: "s2", Class: "on-demand", Cluster: "lab", Version: "1", State: Fenced, Since: noon.Add(-time.Hour), Locked: true,
		Session:   &Session{Job: 7, User: "alice", Since: noon.Add(-time.Minute), Phase: "run"},
		Fence:     &Fence{Reason: "a secure session could not be undone", Detail: "unlock: busy\nand \x1b[31mred", Since: noon.Add(-time.Second)},
		Incidents: []Incident{{"stranger", "a process came up", 1, 4}, {"replayed", "again", 0, 2}},
		Head:      "7:00", Events: map[string]uint64{"refused": 2, "admitted": 3}, Goroutines: 12,
	}
}

// source answers with a status and remembers what it was asked.
type source struct {
	s     *Status
	tried chan struct{}
}

func (s source) Status() *Status { return s.s }
func (s source) Retry(ctx context.Context) *Recovery {
	close(s.tried)
	return &Recovery{Lines: []Line{{What: "undoing", Error: "busy"}}, Next: "reboot"}
}
func (s source) Release(ctx context.Context) *Recovery {
	return &Recovery{Lines: []Line{{What: "ending"}}, Recovered: true}
}

func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

func TestRootIsAnsweredAndTwoThingsCanBeAskedFor(t *testing.T) {
	l, path := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	src, over := source{fenced(), make(chan struct{})}, make(chan error, 1)
	go func() { over <- Serve(ctx, l, src) }()
	got, err := Ask(ctx, path, 5*time.Second)
	if err != nil || !reflect.DeepEqual(got, src.s) {
		t.Errorf("%+v, %v", got, err)
	}
	r, err := Recover(ctx, path, 5*time.Second)
	if err != nil || r.Recovered || len(r.Lines) != 1 || r.Next != "reboot" {
		t.Errorf("%+v, %v", r, err)
	}
	<-src.tried
	if r, err := Release(ctx, path, 5*time.Second); err != nil || !r.Recovered || len(r.Lines) != 1 || r.Lines[0].What != "ending" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, c := range []struct{ method, path string }{{http.MethodGet, pathRecover}, {http.MethodGet, pathRelease}, {http.MethodPost, pathStatus}, {http.MethodGet, "/"}, {http.MethodGet, "/metrics"}} {
		if _, err := ask(ctx, path, c.method, c.path, 5*time.Second); err == nil {
			t.Errorf("%s %s was answered", c.method, c.path)
		}
	}
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if _, err := Ask(t.Context(), path, time.Second); !errors.Is(err, ErrSilent) {
		t.Errorf("when nobody listens: %v", err)
	}
}

func TestANodedThatIsStuckIsSilent(t *testing.T) {
	_, path := listen(t) // nobody accepts
	if _, err := Ask(t.Context(), path, 50*time.Millisecond); !errors.Is(err, ErrSilent) {
		t.Errorf("%v", err)
	}
}

func TestSilentPeersDoNotKeepTheSocketFromOthers(t *testing.T) {
	l, path := listen(t)
	go func() { _ = Serve(t.Context(), l, source{s: fenced()}) }()
	for range maxOpen {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := Ask(t.Context(), path, 5*readLimit); err != nil {
		t.Error(err)
	}
}

func TestAnotherUserIsSentAway(t *testing.T) {
	if syscall.Getuid() != 0 {
		t.Fatal("this test becomes another user: run it as root")
	}
	l, path := listen(t)
	for _, open := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
		if err := syscall.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _ = Serve(t.Context(), l, source{s: fenced()}) }()
	// The peer is who connected: one thread of this process, for a moment.
	runtime.LockOSThread()
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	_, _ = syscall.Write(fd, []byte("GET /status HTTP/1.1\r\nHost: noded\r\n\r\n")) // it may be closed by now
	if n, err := syscall.Read(fd, make([]byte, 100)); n > 0 {
		t.Errorf("another user was answered, %v", err)
	}
	if _, err := Ask(t.Context(), path, 2*time.Second); err != nil {
		t.Errorf("root was not: %v", err)
	}
}

func TestAPersonReadsWhatIsWrongAndWhatToDo(t *testing.T) {
	text := fenced().Text(noon)
	for _, want := range []string{
		"s2, on-demand, cluster lab\n", "fenced: out of service", "in force and watched\n", "job 7 of alice, for 1m0s, phase run\n",
		"1s ago: a secure session could not be undone\n", "unlock: busy; and ?[31mred\n", "Slurm does not know yet",
		"incidents  1 since boot, 4 in all: a process came up (stranger)\n           0 since boot, 2 in all: again (replayed)\n", "head 7:00\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if next := fenced().Next(); !strings.Contains(next, "cloister node recover") {
		t.Errorf("next: %s", next)
	}
	s := &Status{Format: Format, State: Unfit, Faults: []string{"swap is on"}, Records: "no space"}
	if text := s.Text(noon); !strings.Contains(text, "fault      swap is on\n") || !strings.Contains(text, "incidents  none\n") || !strings.Contains(text, "cannot be kept: no space") || s.Next() == "" {
		t.Errorf("%s", text)
	}
	if next := (&Status{State: InService}).Next(); next != "" {
		t.Errorf("next of a node that serves: %s", next)
	}
}

func TestPrometheusReadsNumbers(t *testing.T) {
	l, path := listen(t)
	go func() { _ = ServeMetrics(t.Context(), l, source{s: fenced()}) }()
	b, err := ask(t.Context(), path, http.MethodGet, "/metrics", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE cloister_fenced gauge\ncloister_fenced 1\n", "cloister_in_service 0\n", "go_goroutines 12\n", `cloister_incidents_total{kind="stranger"} 4` + "\n",
		`cloister_events_total{event="admitted"} 3` + "\n" + `cloister_events_total{event="refused"} 2` + "\n", `cloister_info{class="on-demand",version="1"} 1`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("it lacks %q:\n%s", want, b)
		}
	}
	if strings.Contains(string(b), "alice") {
		t.Error("a user's name is among the numbers")
	}
	if _, err := ask(t.Context(), path, http.MethodPost, pathRecover, time.Second); err == nil {
		t.Error("a recovery was begun from the metrics' socket")
	}
	if got := label("a\"b\\c\nd"); got != `"a\"b\\c\nd"` {
		t.Errorf("label %s", got)
	}
}

func FuzzStatus(f *testing.F) {
	b, err := fenced().JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"state":"in-service"}`))
	f.Add([]byte(`{"format":1,"state":"in-service"} {}`))
	f.Add([]byte(`{"format":1,"state":"in-service","key":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		for _, r := range s.Text(noon) {
			if r < ' ' && r != '\n' || r == 0x7f {
				t.Fatalf("%q is printed", r)
			}
		}
		s.metrics()
	})
}
