//go:build cluster

package e2e

import (
	"strings"
	"testing"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func TestOrdinaryJobsRunAsBeforeWhereTheyMayAndAreRefusedOnADedicatedNode(t *testing.T) {
	s := deploy.ForTest(t, deploy.Release)
	ctx := t.Context()
	if err := s.Write("bob", "plain.sh", "#!/bin/sh\necho ran on $SLURMD_NODENAME with $WORD\ntouch \"$HOME/was-on-$SLURMD_NODENAME\"\nsrun echo a step\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Upload(ctx, "bob", "plain.sh"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ node, options, state, says string }{
		{cluster.N1, "-p batch -w n1", "COMPLETED", "ran on n1 with hello\na step\n"},
		{cluster.S2, "-p secure -w s2", "COMPLETED", "ran on s2 with hello\na step\n"},
		{cluster.S1, "-p secure -w s1", "FAILED", "sealed jobs only"},
		{cluster.N1, "--secure -p batch -w n1", "FAILED", "cloister: "},
	} {
		t.Run(c.options, func(t *testing.T) {
			id, err := s.Submit(ctx, "bob", "--export=ALL,WORD=hello "+c.options+" plain.sh")
			if err != nil {
				t.Fatal(err)
			}
			end, err := s.Wait(ctx, "bob", id, limit)
			if err != nil {
				t.Fatal(err)
			}
			if end.State != c.state || !strings.Contains(end.Output, c.says) {
				t.Errorf("the job is %s, its output %q; want %s and %q", end.State, end.Output, c.state, c.says)
			}
			if state, err := s.NodeState(ctx, c.node); err != nil || state != "idle" {
				t.Errorf("afterwards %s is %s, %v", c.node, state, err)
			}
		})
	}
	if out, err := s.Output(ctx, cluster.Head, "ls "+deploy.Home("bob")+" | grep -c was-on-"); err != nil || out != "2\n" {
		t.Errorf("of the jobs that may run, %s did: %v", strings.TrimSpace(out), err)
	}
}
