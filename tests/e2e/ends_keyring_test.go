//go:build cluster && full

package e2e

import (
	"testing"

	"cloister/noded/audit"
	"cloister/noded/status"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// lockKeyring is the body of a job that keeps everybody out of its user's
// keyring: 250 is keyctl(2), 5 KEYCTL_SETPERM, -4 the user keyring.
const lockKeyring = `perl -e 'syscall(250, 5, -4, 0) == 0 or die "setperm: $!"'` + "\n"

func TestAJobThatLocksItsUsersKeyringCostsNobodyTheNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	endsAs(t, s, onNode(t, s, cluster.S2, "locks", lockKeyring, "locks.luks:/results:rw,create,size=32M"), "COMPLETED")
	clean(t, s, cluster.S2)
	if st := nodeStatus(t, s, 0); st.State != status.InService || st.Count(audit.KeysKept).Boot == 0 {
		t.Errorf("the node is %s with incidents %+v", st.State, st.Incidents)
	}
	// The keyring stays locked until the node is booted.
	serves(t, s, cluster.S2, "after-locks")
}
