package nodecheck

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Copies of the test binary stand for slurmd and for programs that do not
// answer as it does.
func TestMain(m *testing.M) {
	me, err := os.Executable()
	if err != nil {
		panic(err)
	}
	switch filepath.Base(me) {
	case "slurmd":
		if len(os.Args) != 2 || os.Args[1] != "-V" {
			time.Sleep(time.Minute)
			os.Exit(0)
		}
		groups, err := os.Getgroups()
		fmt.Printf("uid %d gid %d groups %v env %v err %v slurm 24.11.5\n", os.Getuid(), os.Getgid(), groups, os.Environ(), err)
		os.WriteFile(me+".ran", nil, 0o600)
		os.Exit(0)
	case "floods":
		for {
			fmt.Println("slurm 24.11.5")
		}
	case "holds": // its standard output, in a child
		child := exec.Command("/bin/sleep", "30")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn copies the test binary to where everybody may run it and write.
func standIn(t *testing.T, name string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests act as several users: run them as root")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	me, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, me, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// started runs a stand-in until the test ends, and returns its number.
func started(t *testing.T, path string, uid uint32) string {
	t.Helper()
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return fmt.Sprint(cmd.Process.Pid)
}

// ran says whether a stand-in called slurmd was asked for its release.
func ran(path string) bool {
	_, err := os.Stat(path + ".ran")
	return err == nil
}

// status is what the kernel says of a slurmd with these user ids.
func status(real, effective, saved, files uint32) string {
	return fmt.Sprintf("Name:\tslurmd\nUmask:\t0022\nUid:\t%d\t%d\t%d\t%d\nGid:\t0\t0\t0\t0\n", real, effective, saved, files)
}

func TestNoUserMakesANodeUnfitByAProgramCalledSlurmd(t *testing.T) {
	for _, s := range []string{
		status(1000, 1000, 1000, 1000), status(65534, 65534, 65534, 65534), status(1000, 0, 0, 0), // set-uid
		status(0, 1000, 1000, 1000), status(0, 0, 1000, 0), status(0, 0, 0, 1000),
		"absent", // it ended meanwhile
	} {
		if wrong := node(t, map[string]string{"proc/100/status": s, "proc/100/mountinfo": "nonsense\n"}).Check(); len(wrong) != 0 {
			t.Errorf("%q: %q", s, wrong)
		}
	}
}

func TestASetUIDProgramIsNotTakenForSlurmd(t *testing.T) {
	for mode, taken := range map[os.FileMode]bool{0o755: true, 0o755 | os.ModeSetuid: false, 0o755 | os.ModeSetgid: false} {
		n := node(t, map[string]string{"proc/100/mountinfo": "nonsense\n"})
		if err := os.Chmod(n.Proc+"/100/exe", mode); err != nil {
			t.Fatal(err)
		}
		if wrong := n.Check(); (len(wrong) != 0) != taken {
			t.Errorf("%s: %q", mode, wrong)
		}
	}
}

func TestAUsersProgramCalledSlurmdIsNeitherAFaultNorRun(t *testing.T) {
	path := standIn(t, "slurmd")
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	pid := started(t, path, nobody)
	for _, w := range (Node{}).slurmd() {
		if strings.Contains(w, pid) || strings.Contains(w, path) {
			t.Error(w)
		}
	}
	if ran(path) {
		t.Error("it was asked for its release")
	}
}

func TestASlurmdThatOthersMayWriteIsAFaultAndNotRun(t *testing.T) {
	for _, c := range []struct {
		owner int
		mode  os.FileMode
	}{{0, 0o775}, {0, 0o757}, {nobody, 0o755}} {
		path := standIn(t, "slurmd")
		if err := os.Chown(path, c.owner, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		started(t, path, 0)
		wrong := strings.Join(Node{}.slurmd(), "\n")
		if !strings.Contains(wrong, path+" belongs to uid") || !strings.Contains(wrong, "chown root and chmod go-w") {
			t.Errorf("uid %d, %s: %q", c.owner, c.mode, wrong)
		}
		if ran(path) {
			t.Errorf("uid %d, %s: it was asked for its release", c.owner, c.mode)
		}
	}
}

func TestSlurmdIsAskedForItsReleaseAsNobodyAndOnce(t *testing.T) {
	t.Setenv("SECRET", "not for others")
	// As noded is: its /proc/self then belongs to root.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	path := standIn(t, "slurmd")
	pid := started(t, path, 0)
	for range 2 {
		got, err := version("/proc/" + pid + "/exe")
		if err != nil {
			t.Fatal(err)
		}
		if want := "uid 65534 gid 65534 groups [] env [] err <nil> slurm 24.11.5"; got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	if err := os.Remove(path + ".ran"); err != nil {
		t.Fatal(err)
	}
	if _, err := version("/proc/" + pid + "/exe"); err != nil || ran(path) {
		t.Errorf("known already, it was run again or is refused: %v", err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := version("/proc/" + pid + "/exe"); err != nil || !ran(path) {
		t.Errorf("altered, it was not run again or is refused: %v", err)
	}
}

func TestAProgramThatDoesNotAnswerAsSlurmdDoesIsAFault(t *testing.T) {
	for _, name := range []string{"floods", "holds"} {
		link := filepath.Join(t.TempDir(), "exe")
		if err := os.Symlink(standIn(t, name), link); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if got, err := version(link); err == nil {
			t.Errorf("a program that %s its output: %.40q", name, got)
		}
		if took := time.Since(began); took > versionLimit/2 {
			t.Errorf("a program that %s its output is waited for %s", name, took)
		}
	}
}
