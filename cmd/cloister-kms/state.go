package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cloister/kms/server"
	"cloister/secret"
	"cloister/secret/credential"
)

const (
	// defaultState is where the unit's StateDirectory= puts it.
	defaultState = "/var/lib/cloister-kms"
	// defaultKey is what the unit loads as a credential.
	defaultKey = "/etc/cloister-kms/state-key"
	// keyName is the credential's name.
	keyName = "state-key"
)

// place says where the state and its key are.
type place struct{ dir, key string }

// keyFile is where init puts the key: beside the state, not in it, so that a
// copy of the directory is not a copy of the key.
func (p *place) keyFile() string {
	switch {
	case p.key != "":
		return p.key
	case p.dir == defaultState:
		return defaultKey
	}
	return filepath.Clean(p.dir) + ".key"
}

// readKey takes the first key that is there: what systemd handed over, what
// init made, what systemd-creds encrypted since.
func (p *place) readKey(ctx context.Context) (secret.Bytes, error) {
	files := []string{p.keyFile()}
	if p.key == "" {
		files = append(files, p.keyFile()+credential.Suffix)
		if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
			files = append([]string{filepath.Join(dir, keyName)}, files...)
		}
	}
	for _, f := range files {
		text, err := credential.Read(ctx, f, keyName)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("reading the state key: %w", err)
		}
		key, err := secret.Decode(text.Reveal())
		if err != nil || key.Len() != server.StateKeySize {
			return secret.Bytes{}, fmt.Errorf("reading the state key: %s is not one", f)
		}
		return key, nil
	}
	return secret.Bytes{}, fmt.Errorf("%s: %w: there is no %s", p.dir, server.ErrStateKey, p.keyFile())
}

// open finds the key of a state that needs one.
func (p *place) open(ctx context.Context) (s server.State, err error) {
	s.Dir = p.dir
	encrypted, err := server.Encrypted(p.dir)
	if err == nil && encrypted {
		s.Key, err = p.readKey(ctx)
	}
	return s, err
}

// opened is a verb that do does with the state; its key is wiped afterwards.
func (p *place) opened(do func(cmd *cobra.Command, args []string, s server.State) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := p.open(cmd.Context())
		if err != nil {
			return explain(err, "check the state directory")
		}
		defer s.Key.Wipe()
		return do(cmd, args, s)
	}
}

// create makes a state with a fresh key.
func (p *place) create(ctx context.Context, addresses []string) error {
	if _, err := server.Encrypted(p.dir); !errors.Is(err, server.ErrNotInitialised) {
		return fmt.Errorf("making a KMS in %s: %w", p.dir, cmp.Or(err, server.ErrInitialised))
	}
	key, err := secret.Random(rand.Reader, server.StateKeySize)
	if err != nil {
		return err
	}
	defer key.Wipe()
	text := key.Encode()
	defer text.Wipe()
	file := p.keyFile()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	// The key comes first: a state whose key was not kept is worthless.
	if err := credential.Write(ctx, file, keyName, text); err != nil {
		return fmt.Errorf("writing the state key: %w", err)
	}
	if _, err := (server.State{Dir: p.dir, Key: key}).Init(addresses); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
