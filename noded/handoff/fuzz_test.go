package handoff

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzRequest: whatever is accepted means one thing only. Its fields, written
// again in a fixed order, are accepted and mean the same.
func FuzzRequest(f *testing.F) {
	f.Add(datagram(batch...))
	f.Add(with("step", "step=0"))
	f.Add(datagram(append(slices.Clone(batch[:2]), append([]string{"step=3", "proof=" + strings.Repeat("5a", 32)}, batch[3:]...)...)...))
	f.Add(datagram("ask=end", "status=256"))
	f.Add([]byte("cloister=1\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseEnd(b); err == nil && (e.Died || e.Status < 0) {
			t.Errorf("an end that is %+v", e)
		}
		r, err := parseLaunch(b)
		if err != nil {
			return
		}
		if !path.IsAbs(r.Cwd) || path.Clean(r.Cwd) != r.Cwd {
			t.Errorf("cwd %q", r.Cwd)
		}
		for _, a := range r.Arguments {
			if strings.Contains(a, "\x00") {
				t.Errorf("an argument with a NUL: %q", a)
			}
		}
		if len(b) != len(r.encode()) && r.Cwd == rawCwd(b) {
			t.Errorf("%q was read as %+v", b, r)
		}
		again, err := parseLaunch(r.encode())
		if err != nil {
			t.Fatalf("%+v is not read again: %v", r, err)
		}
		if string(again.encode()) != string(r.encode()) {
			t.Errorf("%+v became %+v", r, again)
		}
	})
}

func rawCwd(b []byte) string {
	_, after, _ := strings.Cut(string(b), "\x00cwd=")
	cwd, _, _ := strings.Cut(after, "\x00")
	return cwd
}

// encode is what the plugin does (cgo/plugin/launch.c).
func (r *Request) encode() []byte {
	w := newWriter()
	n := func(name string, v uint32) { w.put(name, strconv.FormatUint(uint64(v), 10)) }
	w.put("ask", "launch")
	n("job", r.Job)
	n("step", r.Step)
	n("uid", r.UID)
	n("gid", r.GID)
	for _, g := range r.Groups {
		n("sgid", g)
	}
	n("nnodes", r.Nodes)
	n("nodeid", r.NodeID)
	n("ntasks", r.Tasks)
	n("restart", r.Restart)
	n("arrayjob", r.ArrayJob)
	n("arraytask", r.ArrayTask)
	if r.Secure {
		w.put("secure", "1")
	} else {
		w.put("secure", "0")
	}
	for _, a := range r.Arguments {
		w.put("arg", a)
	}
	w.put("cwd", r.Cwd)
	if r.Name != "" {
		w.put("name", r.Name)
	}
	if r.Proof != "" {
		w.put("proof", r.Proof)
	}
	return w.buf.Bytes()
}
