package nodecheck

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloister/mutant"
)

// Slurm 25.05 took GetEnvTimeout away (its read_config.c has it as defunct):
// there nothing keeps slurmd from running a user's login shell. 24.11 is the
// oldest that the tests run.
const (
	oldestRelease = 24*100 + 11
	firstWithout  = 25*100 + 5
)

// release refuses a slurmd whose release the defences are not for.
func (n Node) release(dir string) error {
	if n.Proc != "" {
		return nil
	}
	text, err := version(dir + "/exe")
	if err != nil {
		return err
	}
	return checkRelease(text)
}

// checkRelease reads what slurmd -V prints, "slurm 24.11.5" or
// "slurm-wlm 24.11.5".
func checkRelease(text string) error {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return fmt.Errorf("slurmd -V prints nothing: its release is not known")
	}
	parts := strings.SplitN(fields[len(fields)-1], ".", 3)
	number := 0
	for _, p := range append(parts, "", "")[:2] {
		x, err := strconv.Atoi(p)
		if err != nil || x < 0 || x > 99 {
			return fmt.Errorf("slurmd -V prints %q: its release is not known", text)
		}
		number = number*100 + x
	}
	switch {
	case number < oldestRelease:
		return fmt.Errorf("slurmd is of %q: a secure node needs 24.11", text)
	case number >= firstWithout:
		return fmt.Errorf("slurmd is of %q, which knows no GetEnvTimeout: sbatch --get-user-env would run the user's profile outside the session; a secure node needs 24.11", text)
	}
	return nil
}

// versions are what programs print for -V, by their file's identity.
var versions sync.Map

// An identity changes with whatever is done to a file.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

const (
	// versionLimit bounds slurmd -V, which reads no file.
	versionLimit = 20 * time.Second
	// answerLimit bounds what it prints, in bytes.
	answerLimit = 4 << 10
	// nobody has no rights; slurmd -V needs none (docs/findings.md).
	nobody = 65534
)

// version is what the executable behind a link of /proc prints for -V. It is
// opened once, so what is run is the file that was looked at.
func version(link string) (string, error) {
	f, err := os.OpenFile(link, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("looking at slurmd's executable: %w", err)
	}
	if (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0) && !mutant.Removed(mutant.RootsSlurmd) {
		path, _ := os.Readlink(link)
		return "", fmt.Errorf("slurmd's executable %s belongs to uid %d and has mode %o: others than root could write it, so it is not asked for its release; chown root and chmod go-w it, and systemctl restart slurmd", path, st.Uid, st.Mode&0o7777)
	}
	id := identity{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	if text, ok := versions.Load(id); ok {
		return text.(string), nil
	}
	text, err := askVersion(f)
	if err != nil {
		return "", fmt.Errorf("asking slurmd for its release: %w", err)
	}
	versions.Store(id, text)
	return text, nil
}

// askVersion runs a program as nobody, without an environment.
func askVersion(program *os.File) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "-V") // the first of ExtraFiles
	cmd.Args[0] = "slurmd"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{program}
	if !mutant.Removed(mutant.RootsSlurmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.WaitDelay = time.Second // a child of it may hold its standard output
	var out answer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

// An answer is what a program prints, up to answerLimit.
type answer []byte

func (a *answer) Write(b []byte) (int, error) {
	if len(*a)+len(b) > answerLimit {
		return 0, fmt.Errorf("it prints more than %d bytes", answerLimit)
	}
	*a = append(*a, b...)
	return len(b), nil
}
