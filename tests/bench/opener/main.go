// Command opener times on a node how long it opens and closes volumes, without
// the rest of a session. It is the bench's: what to open comes on standard
// input, what it took goes to standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cloister/noded/helper"
	"cloister/noded/unlock"
	"cloister/noded/userfile"
	"cloister/secret"
	"cloister/volume"
)

// A Request is volumes to open Rounds times by turns.
type Request struct {
	Rounds   int
	UID, GID uint32
	Volumes  []struct {
		Path     string
		Pinned   volume.Pinned
		Key      []byte
		ReadOnly bool
	}
}

// Times are those of one volume, in seconds, in the rounds' order.
type Times struct{ Open, Close []float64 }

func main() {
	helper.Main()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "opener:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var r Request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		return err
	}
	all := make([]Times, len(r.Volumes))
	for round := range 1 + r.Rounds { // the first warms up
		for i := range r.Volumes {
			open, closed, err := r.time(ctx, i)
			if err != nil {
				return err
			}
			if round > 0 {
				all[i].Open, all[i].Close = append(all[i].Open, open), append(all[i].Close, closed)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func (r Request) time(ctx context.Context, i int) (open, closed float64, err error) {
	const session = "bench"
	v := r.Volumes[i]
	mode := userfile.ReadWrite
	if v.ReadOnly {
		mode = userfile.ReadOnly
	}
	f, err := userfile.Open(ctx, userfile.User{UID: r.UID, GID: r.GID}, []string{filepath.Dir(v.Path)}, "/", v.Path, mode)
	if err != nil {
		return 0, 0, err
	}
	key := secret.Alloc(len(v.Key))
	copy(key.Reveal(), v.Key)
	defer key.Wipe()
	began := time.Now()
	o, err := unlock.Open(ctx, session, unlock.Volume{File: f, Pinned: v.Pinned, Key: key, ReadOnly: v.ReadOnly, UID: r.UID, GID: r.GID})
	f.Close()
	if err != nil {
		return 0, 0, err
	}
	open = time.Since(began).Seconds()
	o.Mount.Close()
	began = time.Now()
	if err := unlock.Close(ctx, session); err != nil {
		return 0, 0, err
	}
	return open, time.Since(began).Seconds(), nil
}
