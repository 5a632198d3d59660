package main

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"cloister/client/advice"
	"cloister/noded/status"

	"github.com/spf13/cobra"
)

func newNode(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "Look after a secure node (root, on the node)",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newNodeKeygen(a), newNodeStatus(a), newNodeRecover(a), newNodeRelease(a))
	return c
}

// statusLimit is how long a noded that is well may take under load; recoverLimit
// bounds three tries of each undo of a session, which are a release's too.
const (
	statusLimit  = 15 * time.Second
	recoverLimit = 10 * time.Minute
)

func newNodeStatus(a *app) *cobra.Command {
	var asJSON bool
	var socket string
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how this secure node is",
		Long: `status asks the node's daemon how the node is: its class, whether it is locked,
which job has it, whether it was given up and what to do then, the incidents,
and the head of its records.

Exit status: 0 in service, 3 fenced (given up: nothing is launched here), 7 unfit
(sealed jobs are refused), 1 the daemon does not answer.`,
		Example: `  cloister node status
  cloister node status --json | jq -r .state`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := status.Ask(cmd.Context(), socket, statusLimit)
			if err != nil {
				return silent(err)
			}
			if asJSON {
				b, err := s.JSON()
				if err != nil {
					return err
				}
				a.printf("%s", b)
			} else {
				a.printf("%s", s.Text(time.Now()))
			}
			switch s.State {
			case status.Fenced:
				return &advice.Error{Status: advice.Refused, Err: errors.New("this node is out of service: " + s.Fence.Reason), Next: s.Next()}
			case status.Unfit:
				return &advice.Error{Status: advice.Unfit, Err: errors.New("this node refuses sealed jobs: " + s.Faults[0]), Next: s.Next()}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	socketFlag(c, &socket)
	return c
}

func newNodeRecover(a *app) *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:   "recover",
		Short: "Try a node again that was given up, and take it back into service",
		Long: `recover has the node's daemon undo what could not be undone when the node was
given up, line by line. If nothing is left then and nothing is wrong with the
node, it serves again, here and in Slurm; a drain that an administrator set stays.
On a node that is in service it changes nothing but such a drain.

Exit status: 0 the node serves, 3 it is still fenced, 1 the daemon does not answer.`,
		Example: `  cloister node recover`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := status.Recover(cmd.Context(), socket, recoverLimit)
			if err != nil {
				return silent(err)
			}
			a.printLines(r)
			if !r.Recovered {
				return advice.Refuse(r.Next, "this node stays out of service")
			}
			a.printf("this node is in service\n")
			if r.Next != "" {
				a.printf("next: %s\n", oneLine(r.Next))
			}
			return nil
		},
	}
	socketFlag(c, &socket)
	return c
}

func newNodeRelease(a *app) *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:   "release",
		Short: "End the secure job that has this node, and close its volumes",
		Long: `release has the node's daemon end the secure job that has the node, close its
volumes and wipe its keys, and waits for that. cloister-release.service does it
when the node shuts down, while the network and the mounts are still there.

Exit status: 0 no session has the node, 3 it could not be undone and the node is
fenced, 1 the daemon does not answer.`,
		Example: `  cloister node release`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := status.Release(cmd.Context(), socket, recoverLimit)
			if err != nil {
				return silent(err)
			}
			a.printLines(r)
			if !r.Recovered {
				return advice.Refuse(r.Next, "the session could not be undone")
			}
			return nil
		},
	}
	socketFlag(c, &socket)
	return c
}

func (a *app) printLines(r *status.Recovery) {
	for _, l := range r.Lines {
		if l.Error != "" {
			a.printf("failed  %s: %s\n", oneLine(l.What), oneLine(l.Error))
		} else {
			a.printf("ok      %s\n", oneLine(l.What))
		}
	}
}

func socketFlag(c *cobra.Command, socket *string) {
	c.Flags().StringVar(socket, "socket", status.Socket, "the daemon's socket")
	_ = c.Flags().MarkHidden("socket") // for tests
}

// silent says what to do when nobody answers.
func silent(err error) error {
	next := "on the node: systemctl status cloister-noded; its watchdog starts a stuck one anew within a minute, and a locked node stays locked meanwhile"
	switch {
	case errors.Is(err, fs.ErrPermission):
		next = "ask as root"
	case errors.Is(err, syscall.ENOENT):
		next = "run it on a secure node, whose cloister-noded.socket is started"
	case !errors.Is(err, status.ErrSilent):
		next = "the cloister command and cloister-noded must be of one version"
	}
	return advice.Fail(next, "%w", err)
}
