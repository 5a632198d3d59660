package jobview

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/helper"
	"cloister/noded/jobview/detached"
	"cloister/secret"
)

// The job's user, who need not exist.
var testUID, testGID = 4711, 4712

// A process inside: the test binary enters the view and becomes the user, as
// the Slurm plugin does, then runs a shell.
func TestMain(m *testing.M) {
	helper.Main()
	unix.Umask(0o022) // modes below are meant as they stand, also under noded's unit
	if len(os.Args) == 4 && os.Args[0] == "enter-the-view" {
		fmt.Fprintln(os.Stderr, enter(os.Args[1], os.Args[2], os.Args[3]))
		os.Exit(99)
	}
	if _, err := os.Readlink(hostNamespace); err != nil {
		hostNamespace = "/proc/thread-self/ns/mnt"
	}
	os.Exit(m.Run())
}

// enter has the view's descriptors at 3 and 4.
func enter(cwd, home, command string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for fd, kind := range map[int]int{3: unix.CLONE_NEWNS, 4: unix.CLONE_NEWIPC} {
		if err := unix.Setns(fd, kind); err != nil {
			return err
		}
		unix.CloseOnExec(fd)
	}
	if err := os.Chdir(cwd); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(testGID, testGID, testGID); err != nil {
		return err
	}
	if err := syscall.Setresuid(testUID, testUID, testUID); err != nil {
		return err
	}
	return unix.Exec("/bin/sh", []string{"sh", "-c", command}, []string{"PATH=/usr/bin:/bin:/usr/sbin", "HOME=" + home})
}

// inside runs a shell command as the user in the view and returns what it
// prints, both streams, and whether it succeeded.
func inside(t *testing.T, v *View, spec Spec, command string) (string, bool) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"enter-the-view", spec.Cwd, spec.Home, command}
	cmd.ExtraFiles = []*os.File{v.Mount, v.IPC}
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err == nil
}

// newSpec is a job of a user whose home and project lie on a hidden file
// system that holds files of others.
func newSpec(t *testing.T) Spec {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("namespaces are made by root: run these tests as root")
	}
	shared, err := os.MkdirTemp("/srv", "shared")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(shared) })
	check(t, os.Chmod(shared, 0o755))
	for _, d := range []string{"home/alice", "project/run"} {
		check(t, os.MkdirAll(filepath.Join(shared, d), 0o777))
		check(t, os.Chmod(filepath.Join(shared, d), 0o777))
		check(t, os.WriteFile(filepath.Join(shared, d, "planted.py"), []byte("evil"), 0o666))
	}
	spool, err := os.MkdirTemp("/srv", "spool")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(spool) })
	check(t, os.Chmod(spool, 0o755))
	for _, job := range []string{"/job00042", "/job00043"} {
		check(t, os.Mkdir(spool+job, 0o755))
		check(t, os.WriteFile(spool+job+"/slurm_script", []byte("#!/bin/sh\necho unverified\n"), 0o777))
	}
	return Spec{
		UID: uint32(testUID), GID: uint32(testGID), Home: shared + "/home/alice", Cwd: shared + "/project/run",
		Hidden: []string{shared}, TmpSize: 8 << 20,
		ScriptPath: spool + "/job00042/slurm_script", Script: []byte("#!/bin/sh\necho verified $0\n"),
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBuild(t *testing.T, spec Spec) *View {
	t.Helper()
	v, err := Build(t.Context(), spec)
	check(t, err)
	t.Cleanup(v.Close)
	return v
}

func TestAJobSeesTheHostReadOnlyAndItsOwnPrivatePlaces(t *testing.T) {
	spec := newSpec(t)
	v := mustBuild(t, spec)
	for _, c := range []struct{ what, command, want string }{
		{"who it is", "id -u; id -g; id -G", fmt.Sprintf("%d\n%d\n%d", testUID, testGID, testGID)},
		{"cwd is private and empty", "pwd; ls -A", spec.Cwd},
		{"the rest of the shared file system is hidden", "ls " + spec.Hidden[0], "home\nproject"},
		{"home is private and empty", "cd; pwd; ls -A", spec.Home},
		{"it writes where it may", "for d in . ~ /tmp /var/tmp /dev/shm; do echo x > $d/mine && cat $d/mine; done", "x\nx\nx\nx\nx"},
		{"the script runs", spec.ScriptPath, "verified"},
		{"the script cannot be changed, nor another put beside it", "exec 2>/dev/null; s=" + spec.ScriptPath + "; chmod u+w $s || (echo x >> $s) || rm -f $s || touch ${s%/*}/x || echo no", "no"},
		{"no other job's script is seen", "ls " + filepath.Dir(filepath.Dir(spec.ScriptPath)), "job00042"},
		{"no host directory is writable", "for d in / /etc /usr /usr/bin /var /var/lib /opt /srv /run /dev /mnt /sys /boot /root; do touch $d/x 2>/dev/null && echo $d; done; echo none", "none"},
		{"devices", "cd /dev; echo $(ls | grep -v fuse)", "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"},
		{"devices work", "head -c 3 /dev/zero | od -An -tx1; echo x > /dev/null && echo ok", "00 00 00\nok"},
		{"/run has nothing but munge", "ls /run | grep -v munge; echo none", "none"},
		{"/proc is writable, and shows only its own", "test -w /proc/self/oom_score_adj && ls -d /proc/1 2>/dev/null; echo -1 > /proc/self/oom_score_adj 2>/dev/null; echo 1000 > /proc/self/oom_score_adj && echo ok", "ok"},
		{"no setuid on the host's tree", "grep -c ' nosuid\\| nosuid,\\|,nosuid' /proc/self/mounts >/dev/null; awk '$2 !~ /^\\/proc/ && $4 !~ /nosuid/ {print $2}' /proc/self/mounts; echo none", "none"},
		{"pseudo terminals are its own", "ls /dev/pts", "ptmx"},
		{"a user namespace brings no rights over the mounts", "unshare -Urm sh -c 'mount -o remount,rw,bind /usr || umount " + spec.Cwd + " || umount /run || umount /tmp || echo refused' 2>/dev/null", "refused"},
	} {
		got, _ := inside(t, v, spec, c.command)
		if got != c.want && !(c.want == "verified" && got == "verified "+spec.ScriptPath) {
			t.Errorf("%s: got\n%s\nwanted\n%s", c.what, got, c.want)
		}
	}
	if got, _ := inside(t, v, spec, "ls -A . ~ /tmp"); strings.Contains(got, "planted") {
		t.Errorf("planted files are seen:\n%s", got)
	}
	for _, d := range []string{spec.Cwd, spec.Home, "/tmp", "/var/tmp", "/dev/shm"} {
		if _, err := os.Stat(d + "/mine"); err == nil {
			t.Errorf("the job's file in %s is on the host", d)
		}
	}
}

func TestWhatSlurmdMayWriteIsNotInTheView(t *testing.T) {
	spec := newSpec(t)
	var files []string
	for _, dir := range []string{"/var/lib/slurm", "/var/log/slurm", "/var/spool/slurm", "/var/spool/slurmd"} {
		if os.Mkdir(dir, 0o755) == nil {
			t.Cleanup(func() { os.Remove(dir) })
		}
		file := dir + "/planted.py"
		check(t, os.WriteFile(file, []byte("evil"), 0o644))
		t.Cleanup(func() { os.Remove(file) })
		files = append(files, file)
	}
	// Among them the one of Debian's slurmd.
	for _, spool := range []string{"/var/lib/slurm/slurmd", "/var/spool/slurmd", filepath.Dir(filepath.Dir(spec.ScriptPath))} {
		spec.ScriptPath = spool + "/job00042/slurm_script"
		v := mustBuild(t, spec)
		if got, _ := inside(t, v, spec, "cat "+strings.Join(files, " ")+" 2>/dev/null; "+spec.ScriptPath); got != "verified "+spec.ScriptPath {
			t.Errorf("spool directory %s: %q", spool, got)
		}
	}
}

func TestTheStepKeyIsForTheJobsUserAloneAndCannotBeChanged(t *testing.T) {
	spec := newSpec(t)
	key := []byte("0123456789abcdef0123456789abcdef")
	spec.StepKey = secret.New(slices.Clone(key))
	v := mustBuild(t, spec)
	for command, want := range map[string]string{
		"cat " + StepKeyPath:             string(key),
		"stat -c '%a %u' " + StepKeyPath: fmt.Sprintf("400 %d", testUID),
		"exec 2>/dev/null; chmod u+w " + StepKeyPath + " || rm -f " + StepKeyPath + " || touch /run/cloister/x || echo no": "no",
		"ls /run/cloister": "step-key",
	} {
		if got, _ := inside(t, v, spec, command); got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
	spec.StepKey = secret.New([]byte("short"))
	if v, err := Build(t.Context(), spec); err == nil {
		v.Close()
		t.Error("a step key of 5 bytes was taken")
	}
}

func TestWhatWasWrittenIsGoneWithTheView(t *testing.T) {
	spec := newSpec(t)
	first, err := Build(t.Context(), spec)
	check(t, err)
	inside(t, first, spec, "echo secret > /tmp/x; echo secret > /dev/shm/x; echo secret > ~/x")
	first.Close()
	if got, _ := inside(t, mustBuild(t, spec), spec, "cat /tmp/x /dev/shm/x ~/x 2>/dev/null; echo none"); got != "none" {
		t.Errorf("the next view has %q", got)
	}
}

func TestPrivateFileSystemsAreBounded(t *testing.T) {
	spec := newSpec(t)
	v := mustBuild(t, spec)
	for _, d := range []string{".", "~", "/tmp", "/var/tmp", "/dev/shm"} {
		if out, ok := inside(t, v, spec, "head -c 9000000 /dev/zero > "+d+"/big"); ok {
			t.Errorf("%s took more than its limit: %s", d, out)
		}
	}
}

func TestMountsDoNotPropagateEitherWay(t *testing.T) {
	spec := newSpec(t)
	place, err := os.MkdirTemp("/opt", "place")
	check(t, err)
	defer os.Remove(place)
	check(t, os.Chmod(place, 0o755))
	v := mustBuild(t, spec)
	check(t, unix.Mount("tmpfs", place, "tmpfs", 0, "mode=0777"))
	defer unix.Unmount(place, unix.MNT_DETACH)
	check(t, os.WriteFile(place+"/late", nil, 0o644))
	if got, _ := inside(t, v, spec, "ls "+place+"; echo none"); got != "none" {
		t.Errorf("a later mount of the host is seen: %s", got)
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	mustBuild(t, spec)
	after, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	if !bytes.Equal(before, after) {
		t.Errorf("building a view changed this process's mounts:\n%s", after)
	}
}

func TestTheViewIsBuiltOnAThreadThatNobodyElseUses(t *testing.T) {
	spec := newSpec(t)
	ours, err := os.Readlink("/proc/self/ns/mnt")
	check(t, err)
	for range 8 {
		mustBuild(t, spec)
	}
	// A thread ends a moment after its result is there.
	foreign := func() (found []string) {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		check(t, err)
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != ours {
				found = append(found, task)
			}
		}
		return found
	}
	for until := time.Now().Add(5 * time.Second); len(foreign()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("threads stay in a view: %v", foreign())
		}
	}
}

func TestIPCIsTheJobsOwn(t *testing.T) {
	spec := newSpec(t)
	out, err := exec.Command("ipcmk", "-M", "4096").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	id := string(bytes.TrimSpace(out[bytes.LastIndexByte(out, ':')+1:]))
	defer exec.Command("ipcrm", "-m", id).Run()
	v := mustBuild(t, spec)
	if got, _ := inside(t, v, spec, "tail -n +2 /proc/sysvipc/shm; echo none"); got != "none" {
		t.Errorf("the host's shared memory is seen: %s", got)
	}
}

func TestVolumesAndTheImageAppearAtTheirPlaces(t *testing.T) {
	spec := newSpec(t)
	m, err := detached.New("tmpfs", []string{"mode=0777"}, detached.NoSuid|detached.NoDev)
	check(t, err)
	defer m.Close()
	fd, err := unix.Openat(int(m.Fd()), "patients.csv", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	check(t, err)
	unix.Write(fd, []byte("data"))
	unix.Close(fd)
	image := t.TempDir() + "/verified"
	check(t, os.WriteFile(image, []byte("image"), 0o600)) // as under a strict umask
	spec.Volumes = []Mount{{m, "/data/deep/er"}}
	spec.Image, spec.ImagePath = image, spec.Cwd+"/images/analysis.sif"
	v := mustBuild(t, spec)
	for command, want := range map[string]string{
		"cat /data/deep/er/patients.csv":                                           "data",
		"cat images/analysis.sif":                                                  "image",
		"(echo x > images/analysis.sif) 2>/dev/null || echo refused":               "refused",
		"rm -f images/analysis.sif 2>/dev/null || echo refused":                    "refused",
		"echo result > /data/deep/er/r && cat /data/deep/er/r":                     "result",
		"touch /data/x 2>/dev/null || echo refused":                                "refused",
		"mv images/analysis.sif images/other 2>/dev/null; cat images/analysis.sif": "image",
	} {
		if got, _ := inside(t, v, spec, command); got != want {
			t.Errorf("%s: %q, wanted %q", command, got, want)
		}
	}
}

func TestAnImageInAVolumeAppearsUnderTheNameThatTheScriptUses(t *testing.T) {
	spec := newSpec(t)
	m, err := detached.New("tmpfs", []string{"mode=0755"}, detached.NoSuid|detached.NoDev)
	check(t, err)
	defer m.Close()
	dir := fmt.Sprintf("/proc/self/fd/%d/", m.Fd())
	check(t, os.MkdirAll(dir+"v2", 0o755))
	check(t, os.WriteFile(dir+"v2/analysis-2.sif", []byte("image"), 0o644))
	check(t, os.Symlink("/etc/passwd", dir+"link.sif"))
	check(t, os.Symlink("v2", dir+"latest"))
	check(t, detached.Set(m, false, detached.ReadOnly))
	spec.Volumes = []Mount{{m, "/software"}}
	spec.ImageVolume, spec.Image, spec.ImagePath = "/software", "v2/analysis-2.sif", spec.Cwd+"/analysis.sif"
	v := mustBuild(t, spec)
	for command, want := range map[string]string{
		"cat analysis.sif":                                                   "image",
		"cat /software/v2/analysis-2.sif":                                    "image",
		"(echo x > analysis.sif) 2>/dev/null || echo refused":                "refused",
		"rm -f analysis.sif 2>/dev/null || echo refused":                     "refused",
		"stat -c %d analysis.sif /software/v2/analysis-2.sif | uniq | wc -l": "1", // no copy
	} {
		if got, _ := inside(t, v, spec, command); got != want {
			t.Errorf("%s: %q, wanted %q", command, got, want)
		}
	}
	for name, change := range map[string]func(*Spec){
		"a link":              func(s *Spec) { s.Image = "link.sif" },
		"behind a link":       func(s *Spec) { s.Image = "latest/analysis-2.sif" },
		"a directory":         func(s *Spec) { s.Image = "v2" },
		"out of the volume":   func(s *Spec) { s.Image = "../etc/passwd" },
		"not there":           func(s *Spec) { s.Image = "none.sif" },
		"in no volume":        func(s *Spec) { s.ImageVolume = "/data" },
		"place in the volume": func(s *Spec) { s.ImagePath = "/software/analysis.sif" },
	} {
		bad := spec
		change(&bad)
		if v, err := Build(t.Context(), bad); err == nil {
			t.Errorf("%s: accepted", name)
			v.Close()
		}
	}
}

func TestSecretsAreFilesThatTheJobsUserAloneReads(t *testing.T) {
	spec := newSpec(t)
	spec.Secrets = []Secret{{"pem", secret.New([]byte("-----BEGIN KEY-----\n"))}, {"api-key", secret.New([]byte("\x00\xff"))}}
	spec.StepKey = secret.Alloc(32)
	v := mustBuild(t, spec)
	for command, want := range map[string]string{
		"cat /run/cloister/secrets/pem":                                    "-----BEGIN KEY-----",
		"od -An -tx1 /run/cloister/secrets/api-key":                        "00 ff",
		"stat -c '%a %u %g' /run/cloister/secrets/pem":                     fmt.Sprintf("400 %d %d", testUID, testGID),
		"stat -f -c %T /run/cloister/secrets":                              "tmpfs",
		"ls /run/cloister/secrets":                                         "api-key\npem",
		"rm -f /run/cloister/secrets/pem 2>/dev/null || echo refused":      "refused",
		"chmod 444 /run/cloister/secrets/pem 2>/dev/null || echo refused":  "refused",
		"(echo x > /run/cloister/secrets/pem) 2>/dev/null || echo refused": "refused",
	} {
		if got, _ := inside(t, v, spec, command); got != want {
			t.Errorf("%s: %q, wanted %q", command, got, want)
		}
	}
	if _, err := os.Lstat("/run/cloister/secrets"); err == nil {
		t.Error("the host has /run/cloister/secrets")
	}
}

func TestMountPointsThatChangeWhatTheSystemMeansAreRefused(t *testing.T) {
	base := newSpec(t)
	m, err := detached.New("tmpfs", nil, 0)
	check(t, err)
	defer m.Close()
	link, err := os.MkdirTemp("/srv", "link")
	check(t, err)
	defer os.RemoveAll(link)
	check(t, os.Chmod(link, 0o755))
	check(t, os.Symlink("/etc", link+"/innocent"))
	for name, targets := range map[string][]string{
		"root": {"/"}, "etc": {"/etc"}, "under etc": {"/etc/profile.d"}, "usr bin": {"/usr/bin"}, "bin": {"/bin"},
		"proc": {"/proc"}, "dev": {"/dev/shm"}, "var": {"/var/tmp"}, "unclean": {"/data/../etc"}, "relative": {"data"},
		"slash": {"/data/"}, "nested": {"/data", "/data/inner"}, "nested up": {"/data/inner", "/data"}, "twice": {"/data", "/data"},
		"over home": {base.Home}, "above home": {base.Hidden[0]}, "over cwd": {base.Cwd},
		"through a link": {link + "/innocent"}, "through a link, deeper": {link + "/innocent/profile.d"},
		"not there": {"/srv/absent-on-this-node"}, "NUL": {"/data\x00"},
	} {
		spec := base
		for _, target := range targets {
			spec.Volumes = append(spec.Volumes, Mount{m, target})
		}
		if v, err := Build(t.Context(), spec); err == nil {
			t.Errorf("%s: %q was accepted", name, targets)
			v.Close()
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestRootAndUselessSpecsAreRefused(t *testing.T) {
	good := newSpec(t)
	for name, change := range map[string]func(*Spec){
		"root":               func(s *Spec) { s.UID = 0 },
		"group root":         func(s *Spec) { s.GID = 0 },
		"no size":            func(s *Spec) { s.TmpSize = 0 },
		"home is /":          func(s *Spec) { s.Home = "/" },
		"home is /usr":       func(s *Spec) { s.Home = "/usr" },
		"home is relative":   func(s *Spec) { s.Home = "alice" },
		"cwd unclean":        func(s *Spec) { s.Cwd = s.Cwd + "/.." },
		"script near root":   func(s *Spec) { s.ScriptPath = "/spool/job/script"; s.ScriptPath = "/job/script" },
		"hide all":           func(s *Spec) { s.Hidden = []string{"/"} },
		"hide usr":           func(s *Spec) { s.Hidden = []string{"/usr"} },
		"device elsewhere":   func(s *Spec) { s.Devices = []string{"/etc/passwd"} },
		"image over system":  func(s *Spec) { s.Image, s.ImagePath = "/etc/hostname", "/usr/bin/true" },
		"secret elsewhere":   func(s *Spec) { s.Secrets = []Secret{{"../step-key", secret.Bytes{}}} },
		"secret twice":       func(s *Spec) { s.Secrets = []Secret{{"pem", secret.Bytes{}}, {"pem", secret.Bytes{}}} },
		"image not absolute": func(s *Spec) { s.Image, s.ImagePath = "/etc/hostname", "a.sif" },
	} {
		spec := good
		change(&spec)
		if v, err := Build(t.Context(), spec); err == nil {
			t.Errorf("%s: accepted", name)
			v.Close()
		}
	}
}

func TestABuildThatIsGivenUpHasNothingLeftToWriteIntoTheView(t *testing.T) {
	text := func() []byte { return []byte("what the job alone may read") }
	spec := Spec{Script: text(), StepKey: secret.New(text()), Secrets: []Secret{{"pem", secret.New(text())}}}
	o := own(spec)
	copies := func() [][]byte { return [][]byte{o.Script, o.StepKey.Reveal(), o.Secrets[0].Content.Reveal()} }
	check(t, o.read(func() error {
		o.wipeUnread() // the thread is writing them
		for _, b := range copies() {
			if !bytes.Equal(b, text()) {
				t.Errorf("%q is written", b)
			}
		}
		return nil
	}))
	o.wipeUnread()
	for _, b := range copies() {
		if !bytes.Equal(b, make([]byte, len(text()))) {
			t.Errorf("%q is left", b)
		}
	}
	if o.read(func() error { return nil }) == nil {
		t.Error("they are written although they were wiped")
	}
	if !bytes.Equal(spec.Script, text()) || !bytes.Equal(spec.Secrets[0].Content.Reveal(), text()) {
		t.Error("the caller's were wiped")
	}
}

func TestABuildThatHangsHoldsNothingAndOneThatComesBackGoesNoFurther(t *testing.T) {
	spec := newSpec(t)
	spec.StepKey = secret.New([]byte("what the job alone may read"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	came := make(chan error)
	onOwnThread(func() {
		_, err := build(ctx, own(spec), nil)
		came <- err
	})
	if err := <-came; !errors.Is(err, context.Canceled) {
		t.Errorf("one that came back: %v", err)
	}

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	o := own(spec)
	o.host = filepath.Join(t.TempDir(), "hangs")
	check(t, unix.Mkfifo(o.host, 0o600))
	go func() {
		if _, err := o.build(ctx, nil); err == nil {
			came <- errors.New("a view was built")
			return
		}
		came <- nil
	}()
	for !opening(t) {
		time.Sleep(time.Millisecond)
	}
	cancel()
	check(t, <-came)
	if left := o.StepKey.Reveal(); !bytes.Equal(left, make([]byte, len(left))) {
		t.Errorf("one that hangs holds %q", left)
	}
	f, err := os.OpenFile(o.host, os.O_RDWR, 0) // lets the thread go on
	check(t, err)
	defer f.Close()
	for opening(t) {
		time.Sleep(time.Millisecond)
	}
}

// opening says whether a thread of this process hangs in openat(2).
func opening(t *testing.T) bool {
	tasks, err := filepath.Glob("/proc/self/task/*/syscall")
	check(t, err)
	return slices.ContainsFunc(tasks, func(name string) bool {
		b, _ := os.ReadFile(name) // a thread that has ended has none
		return bytes.HasPrefix(b, fmt.Appendf(nil, "%d ", unix.SYS_OPENAT))
	})
}

func TestACancelledBuildIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if v, err := Build(ctx, newSpec(t)); err == nil {
			v.Close() // the result was there first, which is allowed
		} else {
			return
		}
	}
	t.Error("never noticed")
}
