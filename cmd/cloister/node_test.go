package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"cloister/sealed"
	"cloister/sealed/signers"
	"cloister/secret"
	"cloister/site"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// node does what a secure node does with a sealed job, up to the volume keys,
// and writes manifest.json and script beside it.
func node(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: node JOB USER")
	}
	err := admit(ts, args[0], args[1])
	if (err != nil) != neg {
		ts.Fatalf("the node says: %v", err)
	}
}

func admit(ts *testscript.TestScript, job, user string) error {
	work := func(name string) string { return filepath.Join(ts.Getenv("WORK"), name) }
	e, err := sealed.Parse([]byte(ts.ReadFile(job)))
	if err != nil {
		return err
	}
	list, err := signers.Parse([]byte(ts.ReadFile(work("allowed_signers"))))
	if err != nil {
		return err
	}
	signer, err := e.Verify(list, time.Now())
	if err != nil {
		return err
	}
	ids, err := age.ParseIdentities(strings.NewReader(ts.ReadFile(work(".identity"))))
	if err != nil {
		return err
	}
	m, script, err := e.Decrypt(ids...)
	if err != nil {
		return err
	}
	if err := sealed.CheckBinding(m, signer, user); err != nil {
		return err
	}
	if err := m.CheckPlace("demo", sealed.ClassDedicated); err != nil {
		return err
	}
	if err := m.CheckTime(time.Now()); err != nil {
		return err
	}
	f, err := site.Parse([]byte(ts.ReadFile(work("site.toml"))))
	if err != nil {
		return err
	}
	client, err := f.Client(0)
	if err != nil {
		return err
	}
	for i, t := range append([]string{m.Spare}, m.Tokens...) {
		key, err := client.Redeem(context.Background(), secret.New([]byte(t)))
		if err != nil {
			return err
		}
		s, err := sealed.OpenSecrets(m.Secrets, key, m.Job)
		if err != nil {
			return err
		}
		if len(s.Volumes) != len(m.Volumes) {
			ts.Fatalf("token %d: %d keys for %d volumes", i, len(s.Volumes), len(m.Volumes))
		}
		for j, v := range m.Volumes {
			if v.Create != (s.Volumes[j].KeyslotKey.Len() > 0) {
				ts.Fatalf("volume %s: keyslot key of %d bytes", v.Path, s.Volumes[j].KeyslotKey.Len())
			}
		}
	}
	line, err := m.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(work("manifest.json"), append(line, '\n'), 0o600); err != nil {
		return err
	}
	return os.WriteFile(work("script"), bytes.Clone(script), 0o600)
}

// serveAgent serves an SSH agent with a new key for each name.
func serveAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agent NAME…")
	}
	ring := mutable{agent.NewKeyring(), ts.Value(muteKey{}).(*atomic.Bool)}
	for _, name := range args {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		ts.Check(err)
		ts.Check(ring.Add(agent.AddedKey{PrivateKey: key, Comment: name}))
	}
	// A socket's path has at most 107 bytes: $WORK may be longer.
	dir, err := os.MkdirTemp("", "agent")
	ts.Check(err)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	ts.Check(err)
	ts.Defer(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = agent.ServeAgent(ring, c) // ends when the client goes
			}()
		}
	}()
	ts.Setenv("SSH_AUTH_SOCK", l.Addr().String())
}

// muteKey is where a script's environment says that its agents sign nothing.
type muteKey struct{}

// mutable is an agent that can be told to sign nothing, as one does whose owner
// says no.
type mutable struct {
	agent.Agent
	mute *atomic.Bool
}

func (m mutable) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if m.mute.Load() {
		return nil, errors.New("denied")
	}
	return m.Agent.Sign(key, data)
}

func muteAgents(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: mute")
	}
	ts.Value(muteKey{}).(*atomic.Bool).Store(true)
}
