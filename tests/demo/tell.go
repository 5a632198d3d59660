package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"

	"golang.org/x/term"
)

// Bold and dim only where somebody looks.
var bold, dim, plain = styles()

func styles() (bold, dim, plain string) {
	if term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" {
		return "\x1b[1m", "\x1b[2m", "\x1b[0m"
	}
	return "", "", ""
}

func say(title string) { fmt.Printf("\n%s%s%s\n", bold, title, plain) }

func tell(line string) { fmt.Printf("  %s\n", line) }

func show(command, output string) {
	fmt.Printf("  %s%s%s\n", dim, command, plain)
	for line := range strings.Lines(strings.TrimRight(output, "\n")) {
		fmt.Printf("      %s\n", strings.TrimRight(line, "\n"))
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// tarUp puts the plain data where the open run reads it.
func tarUp(ctx context.Context, s *story, who string) error {
	local := filepath.Join(s.LaptopDir(who), "open.tar")
	if out, err := exec.CommandContext(ctx, "tar", "-cf", local, "-C", filepath.Join(s.LaptopDir(who), "patients"), ".").CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	remote := deploy.Home(who) + "/open.tar"
	if err := s.Put(ctx, cluster.Head, local, remote, 0o644); err != nil {
		return err
	}
	_, err := s.Output(ctx, cluster.Head, fmt.Sprintf("cd %s && mkdir -p open/data && tar -xf open.tar -C open/data && chown -R %s: open", deploy.Home(who), who))
	return err
}
