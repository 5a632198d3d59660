package server

import (
	"testing"

	bolt "go.etcd.io/bbolt"
)

// edit changes a stored record as somebody with the state file could.
func edit(t *testing.T, s *store, token string, change func(*record)) {
	t.Helper()
	h := hashToken(token)
	err := s.db.Update(func(tx *bolt.Tx) error {
		rec, err := s.read(tx, h)
		if err != nil {
			return err
		}
		change(&rec)
		return s.put(tx, h, rec)
	})
	if err != nil {
		t.Fatal(err)
	}
}
