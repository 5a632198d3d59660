//go:build guest

package jobview

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/noded/unlock"
	"cloister/volume"
)

// These tests need device-mapper and apptainer: tests/guest runs them on a
// node of the test cluster.

// There the job's user is alice: apptainer refuses a user whom the node's
// database doesn't know.
func init() { testUID, testGID = 2001, 2001 }

// openVolume opens a volume for writing whose file system was filled by fill,
// run as root in a directory.
func openVolume(t *testing.T, fill func(dir string)) *unlock.Opened {
	t.Helper()
	dir := t.TempDir()
	pinned, keys, err := volume.PlanNewVolume(rand.Reader, 16<<20, true)
	check(t, err)
	from, raw, path, key := dir+"/from", dir+"/raw", dir+"/v.luks", dir+"/key"
	check(t, os.Mkdir(from, 0o755))
	fill(from)
	check(t, os.WriteFile(key, keys.VolumeKey.Reveal(), 0o600))
	run(t, "mkfs.ext4", "-q", "-b", "4096", "-d", from, raw, "4096")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(pinned.End()))
	run(t, "cryptsetup", "open", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512", "--key-file", key,
		"--sector-size", "4096", "--offset", fmt.Sprint(pinned.PayloadOffset/512), "--size", fmt.Sprint(pinned.PayloadSize/512), path, "fill")
	run(t, "dd", "if="+raw, "of=/dev/mapper/fill", "bs=1M", "conv=fsync", "status=none")
	run(t, "cryptsetup", "close", "fill")
	id := make([]byte, 8)
	rand.Read(id)
	session := fmt.Sprintf("%x", id)
	o, err := unlock.Open(t.Context(), session, unlock.Volume{File: f, Pinned: pinned, Key: keys.VolumeKey, UID: uint32(testUID), GID: uint32(testGID)})
	check(t, err)
	t.Cleanup(func() {
		o.Mount.Close()
		begin := time.Now()
		if err := unlock.Close(context.Background(), session); err != nil { // t.Context() is over by now
			t.Errorf("closing: %v", err)
		}
		t.Logf("closed in %v", time.Since(begin))
	})
	return o
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func TestAHostileFileSystemGivesNoPrivilege(t *testing.T) {
	o := openVolume(t, func(dir string) {
		run(t, "install", "-m", "4755", "/usr/bin/id", dir+"/suid-id")
		run(t, "mknod", "-m", "666", dir+"/mem", "c", "1", "1")
		run(t, "mknod", "-m", "666", dir+"/disk", "b", "254", "0")
		run(t, "install", "-m", "644", "-o", "1234", "/etc/hostname", dir+"/strangers")
		run(t, "install", "-m", "600", "/etc/hostname", dir+"/mine")
	})
	spec := newSpec(t)
	spec.Volumes = []Mount{{o.Mount, "/data"}}
	v := mustBuild(t, spec)
	defer v.Close()
	for command, want := range map[string]string{
		"/data/suid-id -u": fmt.Sprint(testUID),
		"cat /data/mem 2>&1 | grep -o 'Permission.*'":                                "Permission denied",
		"head -c 1 /data/disk 2>&1 | grep -o 'Perm.*'":                               "Permission denied",
		"stat -c %u /data/mine /data/strangers":                                      fmt.Sprintf("%d\n65534", testUID),
		"cat /data/mine >/dev/null && echo x > /data/new && stat -c %u:%g /data/new": fmt.Sprintf("%d:%d", testUID, testGID),
	} {
		if got, _ := inside(t, v, spec, command); got != want {
			t.Errorf("%s: %q, wanted %q", command, got, want)
		}
	}
	if _, err := os.Stat("/data/new"); err == nil {
		t.Error("the volume is seen on the host")
	}
}

func TestTheSharedFileSystemIsHiddenAndReadsOfTheJobStayInside(t *testing.T) {
	home := os.Getenv("GUEST_NFS_HOME")
	if home == "" {
		t.Fatal("GUEST_NFS_HOME is not set: run these tests by tests/guest")
	}
	shared := "/" + strings.Split(home, "/")[1]
	for name, hidden := range map[string][]string{"by the policy": {shared, "/home"}, "for the job is there": nil} {
		spec := newSpec(t)
		spec.Hidden = append(spec.Hidden, hidden...)
		spec.Home = home
		spec.Cwd = filepath.Dir(home) + "/elsewhere"
		v := mustBuild(t, spec)
		got, _ := inside(t, v, spec, "ls "+shared+" "+filepath.Dir(home)+"; pwd; echo secret > canary; echo secret > ~/canary; cat ~/canary; grep nfs /proc/self/mounts")
		want := fmt.Sprintf("%s:\nhome\n\n%s:\nalice\nelsewhere\n%s\nsecret", shared, filepath.Dir(home), spec.Cwd)
		if got != want {
			t.Errorf("hidden %s: got\n%s\nwanted\n%s", name, got, want)
		}
		for _, p := range []string{spec.Cwd, home + "/canary"} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("hidden %s: %s is on the file server", name, p)
			}
		}
	}
}

func TestApptainerRunsAnImageInTheViewAsAnOrdinaryUser(t *testing.T) {
	image := os.Getenv("GUEST_SIF")
	if image == "" {
		t.Fatal("GUEST_SIF is not set: run these tests by tests/guest")
	}
	o := openVolume(t, func(dir string) {
		check(t, os.WriteFile(dir+"/patients.csv", []byte("42\n"), 0o644))
	})
	spec := newSpec(t)
	spec.TmpSize = 64 << 20
	spec.Volumes = []Mount{{o.Mount, "/data"}}
	spec.Image, spec.ImagePath = image, spec.Cwd+"/tiny.sif"
	begin := time.Now()
	v := mustBuild(t, spec)
	defer v.Close()
	t.Logf("view built in %v", time.Since(begin))
	begin = time.Now()
	got, ok := inside(t, v, spec, "apptainer exec --bind /data tiny.sif sh -c 'cat /data/patients.csv; echo result > /data/out; id -u' 2>&1")
	t.Logf("apptainer exec took %v", time.Since(begin))
	if !ok || !strings.Contains(got, fmt.Sprintf("42\n%d", testUID)) {
		t.Errorf("apptainer: %v\n%s", ok, got)
	}
	if got, _ := inside(t, v, spec, "cat /data/out"); got != "result" {
		t.Errorf("result %q", got)
	}
}
