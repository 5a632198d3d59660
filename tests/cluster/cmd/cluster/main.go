// Command cluster runs the test cluster by hand: start it, look around in it, end it. $CLUSTER names one of
// several.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cloister/tests/cluster"
)

func main() {
	root := &cobra.Command{Use: "cluster", Short: "Run the test cluster of QEMU guests by hand", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(
		&cobra.Command{Use: "image", Args: cobra.NoArgs, Short: "make the guests' image and print its directory", RunE: image},
		&cobra.Command{Use: "up", Args: cobra.NoArgs, Short: "start a cluster in the background", RunE: up},
		&cobra.Command{Use: "keep", Args: cobra.NoArgs, Hidden: true, RunE: keep},
		&cobra.Command{Use: "run NODE COMMAND...", Args: cobra.MinimumNArgs(2), Short: "run a command as root and take its exit status",
			DisableFlagParsing: true, RunE: run},
		&cobra.Command{Use: "put NODE LOCAL REMOTE", Args: cobra.ExactArgs(3), Short: "copy a file to a node", RunE: put},
		&cobra.Command{Use: "shell NODE", Args: cobra.ExactArgs(1), Short: "root shell on a node's console; leave with ^]", RunE: shell},
		&cobra.Command{Use: "down", Args: cobra.NoArgs, Short: "end the cluster and throw its state away", RunE: down},
	)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root.ExecuteContext(ctx)
	stop()
	var status exitStatus
	if errors.As(err, &status) {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// exitStatus is a guest command's exit status on its way to be ours.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func image(cmd *cobra.Command, _ []string) error {
	dir, err := cluster.BuildImage(cmd.Context())
	if err == nil {
		fmt.Println(dir)
	}
	return err
}

// up starts the process that keeps the cluster and waits for its word.
func up(*cobra.Command, []string) error {
	if c, err := cluster.Attach(os.Getenv("CLUSTER")); err == nil {
		return fmt.Errorf("a cluster is running in %s", c.Dir())
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	keeper := exec.Command(self, "keep")
	keeper.Stdout, keeper.Stderr = w, w
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return err
	}
	w.Close()
	said, err := io.ReadAll(io.TeeReader(r, os.Stdout)) // ends when the keeper closes it
	if err == nil && !strings.HasSuffix(string(said), readyLine) {
		err = errors.New("the cluster did not start")
	}
	return err
}

const readyLine = "ready: cluster shell NODE, cluster run NODE COMMAND, cluster down\n"

// keep owns the cluster until it is told to stop.
func keep(cmd *cobra.Command, _ []string) error {
	ctx := cmd.Context()
	began := time.Now()
	c, err := cluster.Start(ctx, cluster.Options{Log: func(f string, a ...any) { fmt.Printf(f+"\n", a...) }})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Publish(os.Getenv("CLUSTER")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir(), "keeper.pid"), []byte(fmt.Sprint(os.Getpid())), 0o600); err != nil {
		return err
	}
	fmt.Printf("nodes %s after %.1f s, files in %s\n%s", strings.Join(cluster.Nodes, " "), time.Since(began).Seconds(), c.Dir(), readyLine)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := syscall.Dup2(int(null.Fd()), fd); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func run(cmd *cobra.Command, args []string) error {
	c, err := cluster.Attach(os.Getenv("CLUSTER"))
	if err != nil {
		return err
	}
	var opts []cluster.RunOption
	if !term.IsTerminal(0) {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		opts = append(opts, cluster.Stdin(data))
	}
	r, err := c.Run(cmd.Context(), args[0], strings.Join(args[1:], " "), opts...)
	fmt.Print(r.Stdout)
	fmt.Fprint(os.Stderr, r.Stderr)
	if err == nil && r.Exit != 0 {
		err = exitStatus(r.Exit)
	}
	return err
}

func put(cmd *cobra.Command, args []string) error {
	c, err := cluster.Attach(os.Getenv("CLUSTER"))
	if err != nil {
		return err
	}
	info, err := os.Stat(args[1])
	if err != nil {
		return err
	}
	return c.Put(cmd.Context(), args[0], args[1], args[2], info.Mode())
}

func shell(_ *cobra.Command, args []string) error {
	c, err := cluster.Attach(os.Getenv("CLUSTER"))
	if err != nil {
		return err
	}
	conn, err := c.Shell(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if term.IsTerminal(0) {
		if w, h, err := term.GetSize(0); err == nil {
			fmt.Fprintf(conn, "stty rows %d cols %d\r", h, w)
		}
		old, err := term.MakeRaw(0)
		if err != nil {
			return err
		}
		defer term.Restore(0, old)
	}
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(os.Stdout, conn); ended <- err }()
	go func() { ended <- typeUntil(conn, os.Stdin, 0x1d) }() // ^]
	return <-ended
}

// typeUntil passes input on until the leave key.
func typeUntil(to io.Writer, from io.Reader, leave byte) error {
	buf := make([]byte, 256)
	for {
		n, err := from.Read(buf)
		if i := strings.IndexByte(string(buf[:n]), leave); i >= 0 || err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
	}
}

func down(*cobra.Command, []string) error {
	c, err := cluster.Attach(os.Getenv("CLUSTER"))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(c.Dir(), "keeper.pid"))
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	for range 200 {
		if _, err := os.Stat(c.Dir()); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the cluster's process does not end")
}
