package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cloister/client/keystore"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// An openSet is volumes that differ in one thing, the smallest first.
type openSet struct {
	of      string // what differs
	volumes []openVolume
}

type openVolume struct {
	name  string // and what the table shows: "100 MB"
	size  string // --size, for a volume for writing
	files int
}

var openSets = []openSet{
	{"sparse volumes for writing, one file, by size", []openVolume{{"100 MB", "100M", 1}, {"1 GB", "1G", 1}, {"10 GB", "10G", 1}, {"100 GB", "100G", 1}}},
	{"volumes for reading, by files of 1 KiB", []openVolume{{"1 file", "", 1}, {"1000 files", "", 1000}, {"100000 files", "", 100000}}},
}

// openRuns is how often each volume is opened.
const openRuns = 7

// measureOpen times how long noded's own code opens and closes volumes on the
// file server, whatever their size and the number of their files.
func (b *bench) measureOpen(ctx context.Context) error {
	request := map[string]any{"Rounds": openRuns}
	var volumes []map[string]any
	var files []string
	for _, set := range openSets {
		for _, v := range set.volumes {
			file := strings.ReplaceAll(v.name, " ", "-") + ".luks"
			kept, err := b.makeToOpen(ctx, file, v)
			if err != nil {
				return err
			}
			volumes = append(volumes, map[string]any{"Path": deploy.Home(who) + "/" + file, "Pinned": kept.Pinned, "Key": kept.Keys.VolumeKey.Reveal(), "ReadOnly": v.size == ""})
			files = append(files, file)
		}
	}
	request["Volumes"] = volumes
	if err := b.uploadSparse(ctx, files); err != nil {
		return err
	}
	for field, flag := range map[string]string{"UID": "-u", "GID": "-g"} {
		out, err := b.Output(ctx, node, "id "+flag+" "+who)
		if err != nil {
			return err
		}
		if request[field], err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
			return err
		}
	}
	const opener = "/usr/local/sbin/bench-opener"
	if err := b.putProgram(ctx, "cloister/tests/bench/opener", opener); err != nil {
		return err
	}
	told, err := json.Marshal(request)
	if err != nil {
		return err
	}
	out, err := b.Output(ctx, node, opener, cluster.Stdin(told), cluster.Timeout(10*time.Minute))
	if err != nil {
		return err
	}
	var times []struct{ Open, Close []float64 }
	if err := json.Unmarshal([]byte(out), &times); err != nil || len(times) != len(volumes) {
		return fmt.Errorf("reading what opening took: %q: %w", out, err)
	}
	for _, set := range openSets {
		fmt.Printf("\nOpening on the node: %s; medians of %d, by turns                (budget: no growth)\n", set.of, openRuns)
		smallest, largest := times[0], times[len(set.volumes)-1]
		for i, v := range set.volumes {
			t := times[i]
			fmt.Printf("  %-14s opened in %5.2f s  (%s)   closed in %5.2f s  (%s)\n", v.name, median(t.Open), spread(t.Open), median(t.Close), spread(t.Close))
		}
		last := set.volumes[len(set.volumes)-1].name
		fmt.Printf("  %s / %s: %.2f × to open, %.2f × to close\n", last, set.volumes[0].name, median(largest.Open)/median(smallest.Open), median(largest.Close)/median(smallest.Close))
		times = times[len(set.volumes):]
	}
	return nil
}

// makeToOpen makes a volume on the laptop and returns what it keeps of it.
func (b *bench) makeToOpen(ctx context.Context, file string, v openVolume) (keystore.Volume, error) {
	from := filepath.Join(b.LaptopDir(who), file+".from")
	defer os.RemoveAll(from)
	for i := range v.files {
		dir := filepath.Join(from, strconv.Itoa(i/1000))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return keystore.Volume{}, err
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), make([]byte, 1<<10), 0o600); err != nil {
			return keystore.Volume{}, err
		}
	}
	args := []string{"volume", "create", file, "--from", from}
	if v.size != "" {
		args = append(args, "--size", v.size)
	}
	if _, err := b.Laptop(ctx, who, args...); err != nil {
		return keystore.Volume{}, err
	}
	kept, err := keystore.In(b.Home(who)).Named(file)
	if err != nil || len(kept) != 1 {
		return keystore.Volume{}, fmt.Errorf("the laptop has %d volumes named %s: %w", len(kept), file, err)
	}
	return kept[0], nil
}

// uploadSparse copies files with holes to the user's directory.
func (b *bench) uploadSparse(ctx context.Context, files []string) error {
	const name = "open.tar"
	local := filepath.Join(b.LaptopDir(who), name)
	defer os.Remove(local)
	if out, err := exec.CommandContext(ctx, "tar", append([]string{"-C", b.LaptopDir(who), "--sparse", "-cf", local}, files...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("packing volumes: %w: %s", err, out)
	}
	if err := b.Put(ctx, cluster.Head, local, "/root/"+name, 0o600); err != nil {
		return err
	}
	_, err := b.Output(ctx, cluster.Head, "cd "+deploy.Home(who)+" && tar --no-same-owner -xf /root/"+name+" && chown "+who+": *.luks && rm /root/"+name, cluster.Timeout(5*time.Minute))
	return err
}

// putProgram builds a program of this repository and puts it on the node.
func (b *bench) putProgram(ctx context.Context, pkg, remote string) error {
	dir, err := os.MkdirTemp("", "cloister-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	local := filepath.Join(dir, "program")
	if out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", local, pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	return b.Put(ctx, node, local, remote, 0o755)
}
