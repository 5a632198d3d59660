package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// login is what is kept of a token that a password was exchanged for. Times
// are Unix seconds. It counts as long as the password of that ID does.
type login struct {
	User     string `json:"user"`
	Password string `json:"password"` // its ID
	Accessor string `json:"accessor"`
	Created  int64  `json:"created"`
	Expires  int64  `json:"expires"`
}

// loginTokenPrefix tells a login's token from the one that `user add` made.
const loginTokenPrefix = "ckl."

func loginPlace(h tokenHash) string { return "login " + string(h[:]) }

// logIn stores a fresh login.
func (s *store) logIn(u string, p password, now time.Time, ttl time.Duration) (string, login, error) {
	var acc [16]byte
	rand.Read(acc[:])
	token := newToken(loginTokenPrefix)
	l := login{u, p.ID, hex.EncodeToString(acc[:]), now.Unix(), now.Add(ttl).Unix()}
	return token, l, s.db.Batch(func(tx *bolt.Tx) error { return s.putLogin(tx, hashToken(token), l) })
}

func (s *store) putLogin(tx *bolt.Tx, h tokenHash, l login) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encoding a login: %w", err)
	}
	return tx.Bucket(bucketLogins).Put(h[:], s.key.seal(loginPlace(h), b))
}

// findLogin returns errNoUser for a login that is not there or has expired.
func (s *store) findLogin(h tokenHash, now time.Time) (l login, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		l, err = s.readLogin(tx, h, now)
		return err
	})
	return l, err
}

func (s *store) readLogin(tx *bolt.Tx, h tokenHash, now time.Time) (l login, err error) {
	v := tx.Bucket(bucketLogins).Get(h[:])
	if v == nil {
		return login{}, errNoUser
	}
	plain, err := s.key.open(loginPlace(h), v)
	if err == nil {
		err = json.Unmarshal(plain, &l)
	}
	if err != nil {
		return login{}, fmt.Errorf("a login is damaged: %w", err)
	}
	if now.Unix() >= l.Expires {
		return login{}, errNoUser
	}
	return l, nil
}

// renew lets a login live for ttl from now on, but not longer than longest
// after it began.
func (s *store) renew(h tokenHash, now time.Time, ttl, longest time.Duration) (l login, err error) {
	var refused error
	err = s.db.Batch(func(tx *bolt.Tx) error {
		refused = nil
		var err error
		l, err = s.readLogin(tx, h, now)
		if errors.Is(err, errNoUser) {
			refused = err
			return nil
		}
		if err != nil {
			return err
		}
		l.Expires = min(now.Add(ttl).Unix(), time.Unix(l.Created, 0).Add(longest).Unix())
		return s.putLogin(tx, h, l)
	})
	return l, errors.Join(err, refused)
}

func (s *store) logOut(h tokenHash) error {
	return s.db.Batch(func(tx *bolt.Tx) error { return tx.Bucket(bucketLogins).Delete(h[:]) })
}

// purgeLogins forgets the logins that have expired.
func (s *store) purgeLogins(now time.Time) error {
	var due [][]byte
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketLogins).ForEach(func(k, _ []byte) error {
			if len(k) != len(tokenHash{}) {
				return fmt.Errorf("login %x is damaged", k)
			}
			if _, err := s.readLogin(tx, tokenHash(k), now); errors.Is(err, errNoUser) && len(due) < purgeBatch {
				due = append(due, append([]byte(nil), k...))
			}
			return nil
		})
	})
	if err != nil || len(due) == 0 {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, k := range due {
			if err := tx.Bucket(bucketLogins).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
