package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister/client/keystore"
	"cloister/client/sealing"
	"cloister/site"
	"cloister/volume"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

const (
	sealRuns     = 5
	mostVolumes  = 4
	mostNodes    = 64
	sealedBudget = 1 << 20 // bytes
)

// measureSealing times `seal` with a KMS on this machine, without the start of
// the program: one volume that the node makes, the others to be read.
func measureSealing(ctx context.Context, s *keyServer) error {
	dir, err := os.MkdirTemp("", "cloister-bench-seal-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o, err := sealOptions(ctx, dir, s)
	if err != nil {
		return err
	}
	fmt.Printf("\nSealing, KMS on this machine, medians of %d (load average %s)   (budget for %d nodes and %d volumes ≤ 2 s, ≤ 1 MB)\n", sealRuns, load(), mostNodes, mostVolumes)
	recipients := o.Site.Class[site.Dedicated].Recipients
	for _, volumes := range []int{1, mostVolumes} {
		for _, nodes := range []int{1, 16, mostNodes} {
			if err := os.WriteFile(o.Script, []byte(sealScript(volumes)), 0o600); err != nil {
				return err
			}
			o.Site.Class[site.Dedicated] = site.Class{Recipients: recipients[:nodes]}
			var times []float64
			for range sealRuns {
				began := time.Now()
				if _, err := sealing.Seal(ctx, o); err != nil {
					return err
				}
				times = append(times, time.Since(began).Seconds())
			}
			st, err := os.Stat(o.Out)
			if err != nil {
				return err
			}
			note := ""
			if st.Size() > sealedBudget {
				note = "   over the budget"
			}
			fmt.Printf("  %2d volumes, %2d nodes   %6.3f s  (%s)   %7d bytes%s\n", volumes, nodes, median(times), spread(times), st.Size(), note)
		}
	}
	return nil
}

func sealScript(volumes int) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n#CLOISTER volume=results.luks:/results:rw,create,size=64M\n")
	for i := 1; i < volumes; i++ {
		fmt.Fprintf(&b, "#CLOISTER volume=data%d.luks:/data%d:ro\n", i, i)
	}
	b.WriteString("#CLOISTER output=/results/out\ntrue\n")
	return b.String()
}

func sealOptions(ctx context.Context, dir string, s *keyServer) (sealing.Options, error) {
	fail := func(err error) (sealing.Options, error) { return sealing.Options{}, err }
	path := func(name string) string { return filepath.Join(dir, name) }
	store := keystore.In(path("home"))
	if err := os.Mkdir(path("data"), 0o700); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(path("data/table"), []byte("Ada"), 0o600); err != nil {
		return fail(err)
	}
	for i := 1; i < mostVolumes; i++ {
		name := fmt.Sprintf("data%d.luks", i)
		pinned, keys, err := volume.Create(ctx, volume.CreateOptions{Path: path(name), From: path("data"), Rand: rand.Reader})
		if err != nil {
			return fail(err)
		}
		if err := store.Put(keystore.Volume{Name: name, Created: time.Now(), Pinned: pinned, Keys: keys}); err != nil {
			return fail(err)
		}
	}
	var recipients []string
	for range mostNodes {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return fail(err)
		}
		recipients = append(recipients, id.Recipient().String())
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return fail(err)
	}
	return sealing.Options{
		Home: path("home"), Script: path("job.sh"), Out: path("job.sealed"), KMS: s.client, UserToken: s.user,
		Signer: signer, User: "bench", Now: time.Now,
		Site: &site.File{Format: site.Format, Cluster: "bench", KMS: site.KMS{Address: s.address, CA: string(s.caPEM)},
			Class: map[string]site.Class{site.Dedicated: {Recipients: recipients}}},
	}, nil
}
