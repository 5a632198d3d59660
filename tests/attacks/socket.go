package attacks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onSocket are attacks on the socket at which noded takes steps from slurmd.
var onSocket = []Attack{
	{Number: 24, Who: "A4", Name: "another user of the node, and a flood of nonsense, at noded's socket during a session",
		Defences: defences(mutant.SocketRootOnly), Before: bringPeer, During: atSocket},
}

const peer = "/usr/local/bin/socketpeer"

// bringPeer builds the program that talks to the socket and puts it on the
// node.
func bringPeer(ctx context.Context, s *deploy.Site) error {
	dir, err := os.MkdirTemp("", "cloister-socketpeer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "socketpeer")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", file, "cloister/tests/attacks/cmd/socketpeer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building socketpeer: %w: %s", err, out)
	}
	return s.Put(ctx, cluster.S2, file, peer, 0o755)
}

// atSocket tries the socket as it is, then as a careless administrator may
// have left it, open for all; then as a program of root's that went wrong.
func atSocket(ctx context.Context, s *deploy.Site, _ Victim) error {
	if said, err := askAsBob(ctx, s); err != nil || !strings.Contains(said, "permission denied") {
		return fmt.Errorf("as it is, the socket is not closed to users: %q (%v)", said, err)
	}
	inView := `nsenter --mount=/proc/$(pgrep -n -u alice -x sleep)/ns/mnt sh -c 'test -d /shared && test "$(ls -A /run/cloister)" = step-key'`
	if r, err := s.Run(ctx, cluster.S2, inView); err != nil || r.Exit != 0 {
		return fmt.Errorf("the job view has more of noded than the step key: exit status %d (%v)", r.Exit, err)
	}
	if err := openToAll(ctx, s); err != nil {
		return err
	}
	before, err := s.Output(ctx, cluster.S2, nodedPID)
	if err != nil {
		return err
	}
	r, err := s.Run(ctx, cluster.S2, peer+" flood", cluster.Timeout(6*time.Minute))
	if err != nil || r.Exit != 0 {
		return fmt.Errorf("the flood: exit status %d, %q (%v)", r.Exit, r.Stdout, err)
	}
	if strings.Contains(r.Stdout, "taken: ") {
		return got("noded took nonsense: %q", r.Stdout)
	}
	// Whoever is root is heard all the same; the session has the node.
	if !strings.Contains(r.Stdout, "answered: cloister=1 verdict=refuse ") {
		return got("after the flood noded gives no verdict: %q", r.Stdout)
	}
	if after, err := s.Output(ctx, cluster.S2, nodedPID); err != nil || after != before {
		return got("the flood ended noded: it was process %s and is %s (%v)", strings.TrimSpace(before), strings.TrimSpace(after), err)
	}
	return nil
}

const nodedPID = "systemctl show -p MainPID --value cloister-noded.service"

// askAsBob asks noded as another user. noded ends the processes of others during
// a session, this one too, at times before it has said so: then it asks again.
func askAsBob(ctx context.Context, s *deploy.Site) (said string, err error) {
	for try := 0; try < 10 && said == "" && err == nil; try++ {
		var r cluster.Result
		r, err = s.Run(ctx, cluster.S2, peer+" ask $(id -u bob)")
		said = r.Stdout
	}
	return said, err
}

// openToAll lets everybody connect, asks as another user, and closes again.
func openToAll(ctx context.Context, s *deploy.Site) error {
	if _, err := s.Output(ctx, cluster.S2, "chmod 711 /run/cloister && chmod 666 /run/cloister/noded.sock"); err != nil {
		return err
	}
	said, err := askAsBob(ctx, s)
	if _, cerr := s.Output(ctx, cluster.S2, "chmod 600 /run/cloister/noded.sock && chmod 700 /run/cloister"); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if _, answer, ok := strings.Cut(said, "answered: "); ok {
		return got("noded heard a user who is not root: %.60q", answer)
	}
	if !strings.Contains(said, "no answer: ") || strings.Contains(said, "permission denied") {
		return fmt.Errorf("the user did not reach the opened socket: %q", said)
	}
	return nil
}
