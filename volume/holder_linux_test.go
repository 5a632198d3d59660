package volume

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWhoeverFindsAVolumeInUseIsToldByWhom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	if err := unix.Setxattr(path, "user.cloister.test", []byte("x"), 0); err != nil {
		t.Fatalf("this test needs extended attributes in the directory for temporary files: %v", err)
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	node, client := open(), open()
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	must(t, unix.FcntlFlock(node.Fd(), unix.F_OFD_SETLK, &whole))
	h := Holder{Node: "s2", Job: 17, Since: time.Now()}
	if err := lock(client, false); err == nil || err.Error() != ErrInUse.Error() {
		t.Errorf("without a note: %v", err)
	}
	must(t, h.Note(node))
	if err := lock(client, true); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "job 17 on node s2 has it since 2") {
		t.Errorf("%v", err)
	}
	// What no node writes is not shown.
	for _, note := range []string{"1 s2\x1b[2J 17 2026-11-25T10:04:05Z", strings.Repeat("x", 4000)} {
		must(t, unix.Setxattr(path, holderName, []byte(note), 0))
		if err := lock(client, false); err == nil || err.Error() != ErrInUse.Error() {
			t.Errorf("%q: %v", note, err)
		}
	}
	// Another's note stays, one's own goes.
	must(t, h.Note(node))
	must(t, Holder{Node: "s1", Job: 17, Since: h.Since}.Forget(node))
	if _, ok := HolderOf(client); !ok {
		t.Error("another holder took the note away")
	}
	must(t, h.Forget(node))
	if _, ok := HolderOf(client); ok {
		t.Error("the note is still there")
	}
	// One that a crash left goes when somebody else has the lock.
	must(t, h.Note(node))
	node.Close()
	must(t, lock(client, false))
	if _, ok := HolderOf(client); ok {
		t.Error("a stale note is still there")
	}
	if err := (Holder{Node: "a b", Job: 1, Since: h.Since}).Note(client); err == nil {
		t.Error("a note that cannot be read back was written")
	}
}
