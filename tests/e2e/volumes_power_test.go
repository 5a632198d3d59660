//go:build cluster && full

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func TestVolumesOfANodeThatLostPowerAreFreeAfterTheFileServersLease(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	writable(t, s, "work.luks")
	first := onNode(t, s, cluster.S2, "first", "sleep 1000 || true\n", "work.luks:/work:rw")
	if err := s.Started(ctx, "alice", first, cluster.S2); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("1 %s %d 20", cluster.S2, first)
	if out, err := s.Output(ctx, cluster.Head, holderNote("work.luks")); err != nil || !strings.HasPrefix(out, want) {
		t.Errorf("the note on the volume is %q, want %q…, %v", out, want, err)
	}
	lease, err := s.Output(ctx, cluster.Head, "cat /proc/fs/nfsd/nfsv4leasetime")
	if err != nil {
		t.Fatal(err)
	}
	free := func() bool {
		t.Helper()
		// On NFS flock(2) is a lock of the whole file, as noded's is.
		r, err := s.RunAs(ctx, "alice", cluster.Login, "flock -x -n "+deploy.Home("alice")+"/work.luks true")
		if err != nil {
			t.Fatal(err)
		}
		return r.Exit == 0
	}
	if free() {
		t.Fatal("the volume that the job has open is not locked for others")
	}
	if err := s.PowerCut(cluster.S2); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	for !free() {
		if time.Since(cut) > 2*time.Minute {
			t.Fatalf("two minutes after the power cut the volume is still locked; the lease is %s s", strings.TrimSpace(lease))
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("free %.1f s after the power cut, with a lease of %s s", time.Since(cut).Seconds(), strings.TrimSpace(lease))
	// The note that the crash left keeps nobody out.
	second := onNode(t, s, cluster.S1, "second", "echo canary\n", "work.luks:/work:rw")
	endsAs(t, s, second, "COMPLETED")
	if got, err := s.Results(ctx, "alice", "work.luks", "second.txt"); err != nil || got != "canary\n" {
		t.Errorf("the second job wrote %q, %v", got, err)
	}
}
