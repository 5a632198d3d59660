//go:build cluster && full

package e2e

import (
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// slow lets the file server take only so much a second from s2.
func slow(t *testing.T, s *deploy.Site, much string) {
	t.Helper()
	if _, err := s.Output(t.Context(), cluster.Head, `nft -f - <<'EOT'
table ip slow {
	chain in { type filter hook input priority -300; ip saddr `+cluster.Address(cluster.S2)+` tcp dport 2049 limit rate over `+much+`/second drop; }
}
EOT`); err != nil {
		t.Fatal(err)
	}
}

// A script that ends well has written all that it wrote, whether it synced it or
// not, as without Cloister.
func TestWhatAJobWroteLastIsStoredHoweverLongThatTakes(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	const line, lines = "what the job wrote last\n", 2 << 20
	id := onNode(t, s, cluster.S2, "slow", "until [ -e /tmp/go ]; do sleep 1; done\nyes 'what the job wrote last' | head -n 2097152 > /results/much\n", "slow.luks:/results:rw,create,size=128M")
	if err := s.Started(ctx, "alice", id, cluster.S2); err != nil {
		t.Fatal(err)
	}
	slow(t, s, "1 mbytes")
	// The view's /tmp is the job's own.
	if _, err := s.Output(ctx, cluster.S2, "for p in $(pgrep -u alice -x sleep); do touch /proc/$p/root/tmp/go; done"); err != nil {
		t.Fatal(err)
	}
	endsAs(t, s, id, "COMPLETED")
	clean(t, s, cluster.S2)
	out, _ := s.Output(ctx, cluster.S2, "journalctl -q -u cloister-noded -o cat | tail -n 20")
	t.Logf("%s", out)
	if _, err := s.Output(ctx, cluster.Head, "nft delete table ip slow"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Results(ctx, "alice", "slow.luks", "much")
	if err != nil || got != strings.Repeat(line, lines) {
		t.Errorf("%d of the %d bytes that the job wrote are stored, %v", len(got), len(line)*lines, err)
	}
	serves(t, s, cluster.S2, "after-slow")
}
