package userfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAFileOnAUsersFUSEFileSystemIsRefused(t *testing.T) {
	for _, c := range []struct {
		user int
		want error
	}{{65534, syscall.EPERM}, {0, nil}} {
		t.Run(fmt.Sprintf("mounted by uid %d", c.user), func(t *testing.T) {
			server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			dir := t.TempDir()
			options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=0", server.Fd(), c.user)
			if err := unix.Mount("test", dir, "fuse", 0, options); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			// Nobody answers there: what is asked must not need it.
			look, err := openat2(unix.AT_FDCWD, dir, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer look.Close()
			if err := notUsers(look); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNoFileIsMadeOnAUsersFUSEFileSystem(t *testing.T) {
	tr := newTree(t)
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	check(t, err)
	defer server.Close()
	dir := tr.alice + "/mine"
	mkdir(t, dir, 0o755, alice.UID)
	check(t, unix.Mount("test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40777,user_id=%d,group_id=%d", server.Fd(), alice.UID, alice.GID)))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for what, do := range map[string]func(context.Context) error{
		"looking for room": func(ctx context.Context) error {
			_, err := Open(ctx, alice, []string{tr.root}, tr.alice, "mine/v.luks", New)
			return err
		},
		"making": func(ctx context.Context) error {
			_, err := Create(ctx, alice, []string{tr.root}, tr.alice, "mine/v.luks", 4096)
			return err
		},
		"removing": func(ctx context.Context) error {
			return Remove(ctx, alice, []string{tr.root}, Made{Path: dir + "/v.luks", Size: 4096})
		},
	} {
		t.Run(what, func(t *testing.T) {
			// Nobody answers there: whoever asks waits until the deadline.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := do(ctx); !errors.Is(err, syscall.EPERM) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWhoMountedAFileSystemIsReadFromMountinfo(t *testing.T) {
	const mounts = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /shared rw,relatime shared:9 master:2 - nfs4 head:/shared rw,vers=4.2
31 22 0:41 / /home/bob/m rw,nosuid,nodev shared:10 - fuse.sshfs x rw,user_id=2002,group_id=2002
32 22 0:42 / /gluster rw,relatime - fuse.glusterfs head:/v rw,user_id=0,group_id=0,allow_other
33 22 0:43 / /odd rw - fuse x rw
34 22 0:44 / /cut rw - fuse
`
	for id, want := range map[string]string{"22": "false <nil>", "30": "false <nil>", "31": "true <nil>", "32": "false <nil>", "33": "true <nil>",
		"34": `false "34 22 0:44 / /cut rw - fuse\n" is not a line of mountinfo`, "3": "false it lies on a mount that is not listed"} {
		users, err := usersMount(mounts, id)
		if got := fmt.Sprint(users, " ", err); got != want {
			t.Errorf("mount %s: %s, want %s", id, got, want)
		}
	}
}
