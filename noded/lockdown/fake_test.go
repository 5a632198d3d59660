//go:build !guest

package lockdown

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// A fakeInit answers for systemd and logind on a bus of the test's own. Units
// behave as systemd 257's did where this was tried; stubborn ones stop only
// when they are killed.
type fakeInit struct {
	t     *testing.T
	conn  *dbus.Conn
	mu    sync.Mutex
	units map[string]*fakeUnit
	alias map[string]string
	known map[string]bool     // templates that have a file
	masks map[string]bool     // the administrator's
	seen  map[string]bool     // guards that daemon-reload made effective
	by    map[string][]string // what starts a unit
	deaf  string              // a unit that heeds no guard
	calls []string
	users map[string][]any // session id → ListSessions row
	fail  string           // the call that fails
	with  string           // that error's name, Failed if it is empty
	looks int              // how often units were listed by name
	bus   *exec.Cmd
}

type fakeUnit struct {
	active   string
	stubborn bool
	failing  bool
}

func newFakeInit(t *testing.T) *fakeInit {
	t.Helper()
	cmd := exec.Command("dbus-daemon", "--session", "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("this test needs dbus-daemon (Debian: dbus-daemon): %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(line)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	noProcesses(t)
	oldFile, oldUnits := closedFile, runtimeUnits
	closedFile, runtimeUnits = t.TempDir()+"/run/doors-closed", t.TempDir()
	t.Cleanup(func() { closedFile, runtimeUnits = oldFile, oldUnits })

	f := &fakeInit{
		t: t, bus: cmd, units: map[string]*fakeUnit{}, alias: map[string]string{}, known: map[string]bool{}, by: map[string][]string{},
		masks: map[string]bool{}, seen: map[string]bool{}, users: map[string][]any{},
	}
	if f.conn, err = dbus.Connect(address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	const manager = "org.freedesktop.systemd1.Manager"
	f.conn.ExportMethodTable(map[string]any{
		"ListUnitsByNames": f.listByNames, "ListUnitsByPatterns": f.listByPatterns, "Reload": f.reload,
		"Subscribe": f.subscribe, "StopUnit": f.stop, "StartUnit": f.start, "KillUnit": f.kill,
	}, "/org/freedesktop/systemd1", manager)
	f.conn.ExportSubtreeMethodTable(map[string]any{"Get": f.get}, unitPath, "org.freedesktop.DBus.Properties")
	f.conn.ExportMethodTable(map[string]any{
		"ListSessions": f.listSessions, "KillSession": f.killSession, "TerminateSession": f.terminateSession,
	}, "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
	for _, n := range []string{"org.freedesktop.systemd1", "org.freedesktop.login1"} {
		if r, err := f.conn.RequestName(n, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("taking the name %s: %v %v", n, r, err)
		}
	}
	return f
}

// noProcesses keeps a test from looking at, and killing, the machine's own.
func noProcesses(t *testing.T) {
	old := procDir
	procDir = t.TempDir()
	t.Cleanup(func() { procDir = old })
	if err := os.WriteFile(filepath.Join(procDir, "loadavg"), []byte("0.00 0.01 0.05 1/100 4242\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// unit adds a unit that has a file in the vendor's directory.
func (f *fakeInit) unit(name, active string) *fakeUnit {
	u := &fakeUnit{active: active}
	f.units[name] = u
	f.known[template(name)] = true
	return u
}

// template is the name of a unit's file.
func template(name string) string {
	if before, after, ok := strings.Cut(name, "@"); ok {
		return before + "@" + after[strings.LastIndex(after, "."):]
	}
	return name
}

// triggered gives a unit its TriggeredBy property.
func (f *fakeInit) triggered(name string, by ...string) { f.by[name] = by }

const unitPath = "/org/freedesktop/systemd1/unit"

// An assertion is one of a unit's property Asserts.
type assertion struct {
	Type            string
	Trigger, Negate bool
	Parameter       string
	State           int32
}

// get answers for the properties of units.
func (f *fakeInit) get(m dbus.Message, _, property string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	name := pathUnescape(path.Base(string(p)))
	if property == "TriggeredBy" {
		return dbus.MakeVariant(append([]string{}, f.by[name]...)), nil
	}
	if property != "Asserts" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
	}
	all := []assertion{}
	if f.seen[template(name)] {
		all = append(all, assertion{"AssertPathExists", false, true, closedFile, 0})
	}
	return dbus.MakeVariant(all), nil
}

func pathUnescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, err := strconv.ParseUint(s[min(i+1, len(s)):min(i+3, len(s))], 16, 8); s[i] == '_' && err == nil {
			b.WriteByte(byte(c))
			i += 2
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func pathEscape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func (f *fakeInit) login(id string, uid uint32, user, seat string) {
	f.users[id] = []any{id, uid, user, seat, dbus.ObjectPath("/org/freedesktop/login1/session/" + pathEscape(id))}
}

func (f *fakeInit) lingers(uid string, on bool) {
	prop.Export(f.conn, dbus.ObjectPath("/org/freedesktop/login1/user/_"+uid), prop.Map{"org.freedesktop.login1.User": {"Linger": {Value: on}}})
}

func (f *fakeInit) call(format string, a ...any) *dbus.Error {
	c := fmt.Sprintf(format, a...)
	f.calls = append(f.calls, c)
	if f.fail != "" && strings.HasPrefix(c, f.fail) {
		return dbus.NewError(cmp.Or(f.with, "org.freedesktop.DBus.Error.Failed"), []any{"the test said so"})
	}
	return nil
}

// state is what a test compares: units that are not down, and whether the
// others may start.
func (f *fakeInit) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for n, u := range f.units {
		if u.active != "inactive" && u.active != "failed" {
			out = append(out, n+"="+u.active)
		}
	}
	slices.Sort(out)
	if shut, err := guardsShut(); err != nil || shut {
		out = append(out, "shut")
	}
	return strings.Join(out, " ")
}

type row []any

func (f *fakeInit) row(name string) row {
	if to, ok := f.alias[name]; ok {
		name = to
	}
	load, active := "not-found", "inactive"
	if f.known[template(name)] {
		load = "loaded"
	}
	if u := f.units[name]; u != nil {
		active = u.active
	}
	if f.masks[template(name)] {
		load = "masked"
	}
	return row{name, "", load, active, "", "", dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + pathEscape(name)), uint32(0), "", dbus.ObjectPath("/")}
}

type unitRow struct {
	Name, Description, Load, Active, Sub, Follow string
	Path                                         dbus.ObjectPath
	JobID                                        uint32
	JobType                                      string
	JobPath                                      dbus.ObjectPath
}

func (r row) unit() unitRow {
	return unitRow{r[0].(string), "", r[2].(string), r[3].(string), "", "", r[6].(dbus.ObjectPath), 0, "", "/"}
}

func (f *fakeInit) listByNames(names []string) ([]unitRow, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	var out []unitRow
	for _, n := range names {
		out = append(out, f.row(n).unit())
	}
	return out, nil
}

func (f *fakeInit) listByPatterns(states, patterns []string) ([]unitRow, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	out := []unitRow{}
	for n, u := range f.units {
		for _, p := range patterns {
			if ok, _ := path.Match(p, n); ok && (len(states) == 0 || slices.Contains(states, u.active)) {
				out = append(out, f.row(n).unit())
				break
			}
		}
	}
	return out, nil
}

func (f *fakeInit) reload() *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = map[string]bool{}
	for name := range f.known {
		b, err := os.ReadFile(guardFile(name))
		f.seen[name] = err == nil && bytes.Equal(b, guardText()) && name != f.deaf
	}
	return f.call("reload")
}

func (f *fakeInit) subscribe() *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.call("subscribe")
}

// emit announces what systemd would.
func (f *fakeInit) emit(member string, body ...any) {
	f.t.Helper()
	if err := f.conn.Emit(systemdPath, systemdManager+"."+member, body...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeInit) emitLogin(member string, body ...any) {
	f.t.Helper()
	if err := f.conn.Emit(loginPath, loginManager+member, body...); err != nil {
		f.t.Fatal(err)
	}
}

const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/1")

func (f *fakeInit) stop(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("stop %s", name); err != nil {
		return "", err
	}
	if u := f.units[name]; u == nil {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", nil)
	} else if u.stubborn {
		u.active = "deactivating"
	} else {
		u.active = "inactive"
	}
	return job, nil
}

func (f *fakeInit) start(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("start %s", name); err != nil {
		return "", err
	}
	if f.row(name)[2] != "loaded" {
		return "", dbus.NewError("org.freedesktop.systemd1.UnitMasked", []any{"Unit is masked."})
	}
	if shut, _ := guardsShut(); shut && f.seen[template(name)] {
		return job, nil // the job fails
	}
	f.units[name].active = "active"
	if f.units[name].failing {
		f.units[name].active = "failed"
	}
	return job, nil
}

func (f *fakeInit) kill(name, _ string, _ int32) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.units[name].active = "failed"
	return f.call("kill %s", name)
}

type sessionRow struct {
	ID         string
	UID        uint32
	User, Seat string
	Path       dbus.ObjectPath
}

func (f *fakeInit) listSessions() ([]sessionRow, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []sessionRow{}
	for _, s := range f.users {
		out = append(out, sessionRow{s[0].(string), s[1].(uint32), s[2].(string), s[3].(string), s[4].(dbus.ObjectPath)})
	}
	return out, nil
}

func (f *fakeInit) killSession(id, _ string, _ int32) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.call("kill session %s", id)
}

func (f *fakeInit) terminateSession(id string) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.users, id)
	return f.call("terminate session %s", id)
}
