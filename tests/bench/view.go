package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"cloister/noded/jobview"
)

// viewScript builds the same view by command lines.
//
//go:embed view.sh
var viewScript string

// viewRuns is how often each view is built, and every which of them by hand too.
const (
	viewRuns  = 201
	viewEvery = 20
)

// viewFiles are the numbers of files in the hidden tree, and as many again in
// a tree that the job sees.
var viewFiles = []int{10, 1_000, 100_000}

// The trees appear here, in this namespace only: a directory of every Debian
// system that the view takes from the host.
const (
	viewSite    = "/srv"
	viewHidden  = viewSite + "/shared"
	viewHome    = viewHidden + "/home/user"
	viewCwd     = viewHidden + "/project"
	viewSpooled = viewSite + "/spool/job00042/slurm_script"
	// nobody is Debian's user of that name.
	nobody = 65534
)

// viewTimes are seconds.
type viewTimes struct{ built, byHand []float64 }

// measureViews builds the job's view over trees of different sizes by turns,
// and beside each the same by command lines.
func (n native) measureViews(ctx context.Context) error {
	for _, files := range viewFiles {
		if err := makeTrees(n.tree(files), files); err != nil {
			return err
		}
	}
	times := make([]viewTimes, len(viewFiles))
	for round := range 1 + viewRuns {
		for _, i := range rand.Perm(len(viewFiles)) {
			if err := unix.Mount(n.tree(viewFiles[i]), viewSite, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mounting %s: %w", viewSite, err)
			}
			built, err := buildView(ctx)
			if err != nil {
				return err
			}
			if round%viewEvery == 1 {
				byHand, err := viewByHand(ctx)
				if err != nil {
					return err
				}
				times[i].byHand = append(times[i].byHand, byHand)
			}
			if err := unix.Unmount(viewSite, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", viewSite, err)
			}
			if round > 0 {
				times[i].built = append(times[i].built, built)
			}
		}
	}
	printViews(times)
	return nil
}

func (n native) tree(files int) string {
	return filepath.Join(n.Dir, "trees", strconv.Itoa(files))
}

// makeTrees makes what viewSite will show: files in the hidden tree and as
// many in a visible one, at most 1,000 in a directory.
func makeTrees(top string, files int) error {
	at := func(path string) string { return filepath.Join(top, path[len(viewSite):]) }
	for _, dir := range []string{at(viewHome), at(viewCwd), filepath.Dir(at(viewSpooled))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at(viewSpooled), []byte("#!/bin/sh\necho unverified\n"), 0o700); err != nil {
		return err
	}
	for _, tree := range []string{at(viewHidden), filepath.Join(top, "visible")} {
		for i := range files {
			dir := filepath.Join(tree, fmt.Sprintf("files-%03d", i/1000))
			if i%1000 == 0 {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func buildView(ctx context.Context) (seconds float64, err error) {
	began := time.Now()
	view, err := jobview.Build(ctx, jobview.Spec{
		UID: nobody, GID: nobody, Home: viewHome, Cwd: viewCwd, Hidden: []string{viewHidden}, TmpSize: 64 << 20,
		ScriptPath: viewSpooled, Script: []byte("#!/bin/sh\necho verified\n"),
	})
	if err != nil {
		return 0, err
	}
	seconds = time.Since(began).Seconds()
	view.Close()
	return seconds, nil
}

// viewByHand stops the clock when the script says that the view stands: what
// takes it down comes later on both sides.
func viewByHand(ctx context.Context) (seconds float64, err error) {
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--ipc", "--propagation", "private", "sh", "-c", viewScript)
	cmd.Env = append(os.Environ(), "hidden="+viewHidden, "home="+viewHome, "cwd="+viewCwd, "script="+viewSpooled,
		"user="+strconv.Itoa(nobody))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	stands, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(stands, make([]byte, len("stands")))
	seconds = time.Since(began).Seconds()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("view.sh: %w: %s", err, errs.Bytes())
	}
	return seconds, nil
}

func printViews(times []viewTimes) {
	fmt.Printf("\nJob view, natively: medians of %d (by hand: of %d), by turns in random order\n", viewRuns, len(times[0].byHand))
	for i, t := range times {
		fmt.Printf("  %7d files hidden, %7d visible   Cloister %6.2f ms (%s)   by hand %6.2f ms (%s)   by hand / Cloister %.1f ×\n",
			viewFiles[i], viewFiles[i], 1e3*median(t.built), milliseconds(t.built), 1e3*median(t.byHand), milliseconds(t.byHand),
			median(t.byHand)/median(t.built))
	}
	first := times[0]
	for i, t := range times[1:] {
		fmt.Printf("  %d files / %d files: %s in pairs (budget: no growth)\n", viewFiles[i+1], viewFiles[0], paired(t.built, first.built))
	}
}
