package handoff

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Places in what passable opens. A namespace too is an ordinary file to the
// kernel; reading one fails, and noded refuses what it cannot read.
const (
	goodScript = 0
	namespace  = 6
)

// passable opens what a peer may pass, the kind that is right first.
func passable(f *testing.F) []int {
	f.Helper()
	script := f.TempDir() + "/slurm_script"
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		f.Fatal(err)
	}
	var list []int
	add := func(fd int, err error) {
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { unix.Close(fd) })
		list = append(list, fd)
	}
	for _, o := range []struct {
		path  string
		flags int
	}{
		{script, unix.O_RDONLY}, {script, unix.O_RDWR}, {script, unix.O_WRONLY | unix.O_APPEND}, {script, unix.O_PATH}, {"/dev/null", unix.O_RDONLY},
		{f.TempDir(), unix.O_RDONLY}, {"/proc/self/ns/mnt", unix.O_RDONLY},
	} {
		add(unix.Open(o.path, o.flags|unix.O_CLOEXEC, 0))
	}
	add(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))
	add(unix.MemfdCreate("script", unix.MFD_CLOEXEC))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	return list
}

// send passes a datagram with descriptors, one of the kinds for each byte.
func send(peer int, datagram, which []byte, kinds []int) error {
	var fds []int
	for _, b := range which {
		fds = append(fds, kinds[int(b)%len(kinds)])
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(peer, datagram, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// answers reads what the server sent, verdicts only.
func answers(t *testing.T, peer int) []string {
	t.Helper()
	var list []string
	buf, oob := make([]byte, DatagramMax+1), make([]byte, 4096)
	for {
		n, oobn, _, _, err := unix.Recvmsg(peer, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.ECONNRESET) {
			continue // the server hung up on what it had not read; its answers are there still
		}
		if err != nil || n == 0 {
			return list
		}
		files, err := descriptors(oob[:oobn])
		closeAll(files)
		after, ok := strings.CutPrefix(string(buf[:n]), "cloister=1\x00verdict=")
		if !ok || err != nil || buf[n-1] != 0 {
			t.Fatalf("answered by %q, %v", buf[:n], err)
		}
		verdict, _, _ := strings.Cut(after, "\x00")
		if (verdict == "admit") != (len(files) == 2) {
			t.Fatalf("%s with %d descriptors", verdict, len(files))
		}
		list = append(list, verdict)
	}
}

// FuzzConnection: a whole connection with any two datagrams, each with any
// descriptors, and its end. Only a well-formed request with the right
// descriptors reaches the handler, only a well-formed end is one, every peer
// gets at most one verdict and one answer to its end, and nothing stays open.
func FuzzConnection(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Fatal("the hand-off is between two processes of root: run this test as root")
	}
	kinds := passable(f)
	mnt, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { mnt.Close() })
	ok, step, end := datagram(batch...), with("step", "step=0"), datagram("ask=end", "status=256")
	f.Add(ok, []byte{0}, end, []byte{}, byte(0))
	f.Add(ok, []byte{0}, end, []byte{0}, byte(0))
	f.Add(ok, []byte{0}, ok, []byte{0}, byte(1))
	f.Add(ok, []byte{0, 0}, []byte{}, []byte{}, byte(2))
	f.Add(ok, slices.Repeat([]byte{7}, 253), end, []byte{}, byte(3))
	f.Add(step, []byte{}, end, []byte{}, byte(1))
	f.Add(step, []byte{6}, end, []byte{}, byte(1))
	f.Add(step, []byte{}, []byte("cloister=1\x00"), []byte{}, byte(3))
	f.Add(end, []byte{}, step, []byte{}, byte(0))
	f.Add(slices.Repeat([]byte("x"), DatagramMax+1), []byte{0}, end, []byte{}, byte(0))
	for kind := range kinds {
		f.Add(ok, []byte{byte(kind)}, end, []byte{}, byte(0))
	}
	admission := Admission{Home: "/h", Cwd: "/c", Stdout: "/o", Stderr: "/e", MountNS: mnt, IPCNS: mnt}

	f.Fuzz(func(t *testing.T, first, firstWhich, second, secondWhich []byte, verdict byte) {
		before := countDescriptors(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		peer := pair[0]
		file := os.NewFile(uintptr(pair[1]), "server's end")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		firstErr := send(peer, first, firstWhich, kinds)
		secondErr := send(peer, second, secondWhich, kinds)
		// Nothing more comes, so nobody has to wait for a deadline.
		if err := unix.Shutdown(peer, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if firstErr != nil || secondErr != nil { // longer than any socket takes
			conn.Close()
			unix.Close(peer)
			return
		}

		arrived, called, refused := 0, 0, true
		var ended End
		s := &Server{log: zap.NewNop()}
		s.serve(t.Context(), conn.(*net.UnixConn), func(ctx context.Context, c *Conn) {
			called++
			if (c.Request.Script != nil) != c.Request.Batch() {
				t.Error("a script where none belongs, or none where one does")
			}
			switch verdict % 4 {
			case 0:
				err, refused = c.Admit(admission), false
			case 1:
				err, refused = c.Pass(), false
			case 2:
				err = c.Refuse("refused: no")
			}
			if err != nil {
				t.Error(err)
			}
			if verdict%4 == 3 {
				return // no verdict at all
			}
			if ended, err = c.WaitEnd(ctx); err != nil {
				t.Error(err)
			}
			if err := c.Released(); err != nil && !errors.Is(err, unix.EPIPE) {
				t.Error(err)
			}
		}, func() { arrived++ })

		got := answers(t, peer)
		unix.Close(peer)
		r, err := parseLaunch(first)
		good := err == nil && (!r.Batch() && len(firstWhich) == 0 ||
			r.Batch() && len(firstWhich) == 1 && slices.Contains([]int{goodScript, namespace}, int(firstWhich[0])%len(kinds)))
		if arrived != 1 || (called == 1) != good || called > 1 {
			t.Errorf("%q with %v: arrived %d times, handled %d times", first, firstWhich, arrived, called)
		}
		if called == 1 && verdict%4 != 3 {
			want, err := parseEnd(second)
			if died := err != nil || len(secondWhich) != 0; ended.Died != died || (!died && ended != want) {
				t.Errorf("%q with %v is the end %+v", second, secondWhich, ended)
			}
		}
		if len(got) > 0 && refused != (got[0] == "refuse") {
			t.Errorf("answered %v", got)
		}
		if len(got) > 2 || len(got) == 2 && got[1] != "released" || called == 1 && len(got) == 0 {
			t.Errorf("answered %v", got)
		}
		if after := countDescriptors(t); after != before {
			t.Errorf("%d descriptors were open, %d are", before, after)
		}
	})
}
