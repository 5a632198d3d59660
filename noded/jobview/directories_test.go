package jobview

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/noded/jobview/detached"
	"cloister/sealed"
)

// plant makes a directory of anybody's that is not hidden, with files in it.
func plant(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "planted")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{dir, dir + "/run", dir + "/home/alice/run"} {
		check(t, os.MkdirAll(d, 0o777))
		check(t, os.Chmod(d, 0o777))
		check(t, os.WriteFile(d+"/planted.py", []byte("evil"), 0o666))
	}
	return dir
}

func TestAWorkingDirectoryIsANewEmptyOneWhereverAJobWasSubmitted(t *testing.T) {
	base, srv, opt := newSpec(t), plant(t, "/srv"), plant(t, "/opt")
	for _, c := range []struct{ cwd, home string }{
		{srv, base.Home},
		{srv + "/run", base.Home},
		{base.Hidden[0], base.Home},
		{"/srv/absent-on-this-node/run", base.Home},
		{"/absent-on-this-node", base.Home},
		{"/mnt/absent-on-this-node", base.Home},
		{"/tmp/run", base.Home},
		{base.Cwd, srv + "/home/alice"},
		{srv + "/run", srv + "/home/alice"},
		{srv + "/home", srv + "/home/alice"},
		{srv + "/home/alice", srv + "/home/alice"},
		{srv + "/home/alice/run", srv + "/home/alice"},
		{opt + "/home/alice", opt + "/home/alice"},
		{opt + "/home/alice/run", opt + "/home/alice"},
	} {
		spec := base
		spec.Cwd, spec.Home = c.cwd, c.home
		v := mustBuild(t, spec)
		for command, want := range map[string]string{
			"pwd; find . ~ -name 'planted*'; echo x > mine && cat mine": c.cwd + "\nx",
			"cd; pwd; echo x > mine && cat mine":                        c.home + "\nx",
			spec.ScriptPath:                                             "verified " + spec.ScriptPath,
			"exec 2>/dev/null; d=" + filepath.Dir(spec.ScriptPath) + "; mv ${d%/*} ${d%/*}.old || touch $d/x || echo no": "no",
		} {
			if got, _ := inside(t, v, spec, command); got != want {
				t.Errorf("submitted from %s, home %s: %s: %q, wanted %q", c.cwd, c.home, command, got, want)
			}
		}
	}
	for _, d := range []string{srv, srv + "/run", srv + "/home/alice", opt + "/home/alice", base.Hidden[0]} {
		if _, err := os.Lstat(d + "/mine"); err == nil {
			t.Errorf("the job's file in %s is on the host", d)
		}
	}
}

func TestWhoRenamesAWorkingDirectoryOrHomeShowsTheJobNothing(t *testing.T) {
	spec, dir := newSpec(t), plant(t, "/srv")
	spec.Cwd, spec.Home = dir+"/run", dir+"/home/alice"
	v := mustBuild(t, spec)
	for _, d := range []string{"/run", "/home"} {
		check(t, os.Rename(dir+d, dir+d+".old"))
		check(t, os.MkdirAll(dir+d+"/alice", 0o777))
		check(t, os.WriteFile(dir+d+"/planted.py", nil, 0o666))
		check(t, os.WriteFile(dir+d+"/alice/planted.py", nil, 0o666))
	}
	if got, _ := inside(t, v, spec, "find "+dir+" -name 'planted.*'; echo none"); got != "none" {
		t.Errorf("the job sees\n%s", got)
	}
}

func TestVolumesAndTheImageLieInTheWorkingDirectory(t *testing.T) {
	spec := newSpec(t)
	spec.Image = t.TempDir() + "/verified"
	check(t, os.WriteFile(spec.Image, []byte("image"), 0o600))
	for _, cwd := range []string{plant(t, "/srv") + "/run", "/"} {
		m, err := detached.New("tmpfs", []string{"mode=0777"}, detached.NoSuid|detached.NoDev)
		check(t, err)
		defer m.Close()
		spec.Cwd, spec.ImagePath = cwd, filepath.Join(cwd, "analysis.sif")
		spec.Volumes = []Mount{{m, filepath.Join(cwd, "data")}}
		v := mustBuild(t, spec)
		if got, _ := inside(t, v, spec, "pwd; cat analysis.sif; echo x > data/r && cat data/r"); got != cwd+"\nimagex" {
			t.Errorf("in %s: %q", cwd, got)
		}
	}
}

func TestTheRootAsWorkingDirectoryIsTheViewsOwn(t *testing.T) {
	spec := newSpec(t)
	spec.Cwd = "/"
	v := mustBuild(t, spec)
	if got, _ := inside(t, v, spec, "pwd; touch mine 2>/dev/null || echo refused; cd; pwd; echo x > mine && cat mine"); got != "/\nrefused\n"+spec.Home+"\nx" {
		t.Errorf("got %q", got)
	}
}

func TestAWorkingDirectoryOfTheSystemIsRefusedWithAdvice(t *testing.T) {
	base := newSpec(t)
	link := "/test-cwd-link"
	check(t, os.Symlink("/usr", link))
	defer os.Remove(link)
	spool := base.spool()
	for _, cwd := range []string{"/etc", "/etc/profile.d", "/usr/share", "/bin", "/opt", "/root", "/var/lib", "/run/user/4711", "/dev", "/proc/self/cwd", link, link + "/share", spool, spool + "/job00042", spool + "/job00042/x", filepath.Dir(spool)} {
		spec := base
		spec.Cwd = cwd
		v, err := Build(t.Context(), spec)
		if err == nil {
			v.Close()
		}
		if r := (*sealed.Refusal)(nil); !errors.As(err, &r) || !strings.Contains(r.Cause, cwd) || !strings.Contains(r.Next, "home directory") {
			t.Errorf("%s: %v", cwd, err)
		}
	}
}

func TestAHomeBehindALinkIsMade(t *testing.T) {
	spec := newSpec(t)
	link := "/test-home-link"
	check(t, os.Symlink(spec.Hidden[0]+"/elsewhere", link))
	defer os.Remove(link)
	spec.Home = link + "/alice"
	if got, _ := inside(t, mustBuild(t, spec), spec, "cd; pwd -P; echo x > f && cat f"); got != spec.Hidden[0]+"/elsewhere/alice\nx" {
		t.Errorf("got %q", got)
	}
}
