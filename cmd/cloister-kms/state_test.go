package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"cloister/kms/server"
)

func TestAVerbHasTheStatesKeyAndLeavesNoneInMemory(t *testing.T) {
	p := &place{dir: filepath.Join(t.TempDir(), "kms")}
	if err := p.create(t.Context(), []string{"localhost"}); err != nil {
		t.Fatal(err)
	}
	var key []byte
	verb := &cobra.Command{RunE: p.opened(func(_ *cobra.Command, _ []string, s server.State) error {
		key = s.Key.Reveal()
		if len(key) != server.StateKeySize || bytes.Equal(key, make([]byte, len(key))) {
			t.Errorf("the verb has a key of %d bytes", len(key))
		}
		return nil
	})}
	verb.SetArgs([]string{})
	if err := verb.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, make([]byte, server.StateKeySize)) {
		t.Error("the key is in memory when the verb is done")
	}
}
