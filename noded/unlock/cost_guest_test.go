//go:build guest

package unlock

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestZCosts(t *testing.T) {
	for _, where := range []string{"/var/guest", "/mnt/nfs"} {
		if where == "/mnt/nfs" {
			where = "/shared/home/alice"
		}
		for round := range 1 {
			for _, sections := range []int{0, 4, 31, 62, 248, 62, 0} {
				path := where + "/cost.img"
				var out []byte
				var err error
				mk := func() {
					var home unix.Stat_t
					check(t, unix.Stat(where, &home))
					runtime.LockOSThread()
					unix.SetfsgidRetGid(int(home.Gid))
					unix.SetfsuidRetUid(int(home.Uid))
					f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
					unix.SetfsgidRetGid(0)
					unix.SetfsuidRetUid(0)
					runtime.UnlockOSThread()
					if err != nil {
						t.Fatal(err)
					}
					check(t, f.Truncate(300<<20))
					loop, err := attachLoop(f, 0, 300<<20, false)
					check(t, err)
					f.Close()
					mode, n := "J", sections
					if n == 0 {
						mode, n = "D", 1
					}
					st := unix.Stat_t{}
					unix.Stat(loop.Name(), &st)
					tab := fmt.Sprintf("0 %d integrity %d:%d 0 48 %s 5 block_size:4096 journal_sectors:%d interleave_sectors:32768 buffer_sectors:8 fix_padding", 200<<20/512, unix.Major(st.Rdev), unix.Minor(st.Rdev), mode, n*264)
					c := exec.Command("dmsetup", "create", "cost-i", "--table", tab)
					if out, err = c.CombinedOutput(); err != nil {
						t.Fatal(err, string(out))
					}
					loop.Close()
					key := hex.EncodeToString(make([]byte, 95)) + "01"
					key = strings.Repeat("01", 32) + strings.Repeat("02", 32) + strings.Repeat("03", 32)
					c = exec.Command("dmsetup", "create", "cost-c", "--table", fmt.Sprintf("0 %d crypt capi:authenc(hmac(sha256),xts(aes))-random %s 0 /dev/mapper/cost-i 0 2 integrity:48:aead sector_size:4096", 200<<20/512, key))
					if out, err = c.CombinedOutput(); err != nil {
						t.Fatal(err, string(out))
					}
				}
				began := time.Now()
				mk()
				made := time.Since(began)
				dev := "/dev/mapper/cost-c"
				began = time.Now()
				if out, err = exec.Command("dd", "if=/dev/zero", "of="+dev, "bs=1M", "count=48", "conv=fsync").CombinedOutput(); err != nil {
					t.Fatal(err, string(out))
				}
				seq := time.Since(began)
				f, err := os.OpenFile(dev, os.O_RDWR, 0)
				check(t, err)
				began = time.Now()
				b := make([]byte, 4096)
				for i := range 50 {
					f.WriteAt(b, int64(i*37%20000)*4096)
					check(t, f.Sync())
				}
				small := time.Since(began)
				f.Close()
				began = time.Now()
				exec.Command("dmsetup", "remove", "--retry", "cost-c").Run()
				exec.Command("dmsetup", "remove", "--retry", "cost-i").Run()
				t.Logf("%s round %d sections %d: made %v, 48 MiB %v, 50 fsyncs %v, removed %v", where, round, sections, made.Round(time.Millisecond), seq.Round(time.Millisecond), small.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
				os.Remove(path)
			}
		}
	}
}
