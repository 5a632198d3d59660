//go:build cluster && full

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// With the stock systemd-creds, the example's drop-in, and emulated TPMs.
func TestAnIdentityThatIsBoundToANodesTPMOpensJobsThereAndNowhereElse(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	on := func(node, script string) string {
		t.Helper()
		out, err := s.Output(ctx, node, "set -e\n"+script)
		if err != nil {
			log, _ := s.Output(ctx, node, "journalctl -q -b -n 30 -u cloister-noded")
			t.Fatalf("%v\n%s", err, log)
		}
		return strings.TrimSpace(out)
	}
	for _, node := range []string{cluster.S2, cluster.S1} {
		if err := s.AddTPM(ctx, node); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", node, on(node, "ls /dev/tpmrm0; systemd-analyze has-tpm2 || true"))
	}
	example, err := filepath.Abs("../../systemd/examples/noded-encrypted-identity.conf")
	if err != nil {
		t.Fatal(err)
	}
	on(cluster.S2, "mkdir -p /etc/systemd/system/cloister-noded.service.d")
	if err := s.Put(ctx, cluster.S2, example, "/etc/systemd/system/cloister-noded.service.d/identity.conf", 0o644); err != nil {
		t.Fatal(err)
	}
	// What systemd-creds would take besides on a machine without a TPM is not there.
	on(cluster.S2, `cd /etc/cloister
systemd-creds encrypt --with-key=tpm2 --name=identity identity identity.cred
chmod 600 identity.cred
shred -u identity
rm -f /var/lib/systemd/credential.secret
systemctl daemon-reload
systemctl restart cloister-noded
systemctl is-active cloister-noded`)
	for _, name := range []string{"one", "two"} {
		if err := s.Seal(ctx, "alice", name, queued+"#CLOISTER volume="+name+".luks:/results:rw,create,size=32M\necho hello\n"); err != nil {
			t.Fatal(err)
		}
	}
	runs := func(name string) {
		t.Helper()
		if end := run(t, s, "alice", name+".sealed"); end.State != "COMPLETED" {
			t.Errorf("the job is %s: %s", end.State, end.Output)
		}
		clean(t, s, cluster.S2)
	}
	runs("one")

	// A copy on another node, with another TPM.
	const file, decrypt = "/etc/cloister/identity.cred", "systemd-creds decrypt --name=identity /etc/cloister/identity.cred - | grep -c AGE-SECRET-KEY"
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := s.Get(ctx, cluster.S2, file, stolen); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, cluster.S1, stolen, file, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Run(ctx, cluster.S1, decrypt)
	if err != nil || r.Exit == 0 || strings.TrimSpace(r.Stdout) != "0" || r.Stderr == "" {
		t.Errorf("another node's TPM: exit status %d, %q, %s, %v", r.Exit, r.Stdout, r.Stderr, err)
	}
	t.Logf("another node says: %s", strings.TrimSpace(r.Stderr))
	if n := on(cluster.S2, decrypt); n != "1" {
		t.Errorf("its own TPM gives %s identities: the refusal above is of something else", n)
	}

	// Rotated, and after a reboot, the TPM gives both identities.
	on(cluster.S2, "cloister node keygen --rotate --keep 14d -o "+file+"\n! grep -q AGE-SECRET-KEY "+file+"\nsync")
	if err := s.PowerCut(cluster.S2); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx, cluster.S2); err != nil {
		t.Fatal(err)
	}
	on(cluster.S2, "systemctl is-active cloister-noded")
	runs("two")
}
