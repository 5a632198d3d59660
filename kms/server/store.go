package server

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"cloister/mutant"
)

const (
	databaseFile = "kms.db"
	// storeFormat changes when an older server could misread the database.
	storeFormat = "1"
	// lockTimeout is how long openStore waits for another process to leave.
	lockTimeout = 2 * time.Second
	// batchDelay is how long a write waits for others to share its fsync.
	batchDelay = 2 * time.Millisecond
	// keepExpired is how long the KMS can still say "expired" rather than
	// "not there". The payload goes at once.
	keepExpired = 24 * time.Hour
	// purgeBatch bounds one purge transaction, so that redemptions do not
	// wait for a long one.
	purgeBatch = 1000
)

var (
	bucketMeta      = []byte("meta")
	bucketTokens    = []byte("tokens")    // SHA-256 of the token → record, encrypted
	bucketAccessors = []byte("accessors") // accessor, as stateKey.name has it → SHA-256 of the token
	bucketCounts    = []byte("counts")    // user, the same → number of tokens in bucketTokens, uint64
	bucketLogins    = []byte("logins")    // SHA-256 of a login's token → login
	keyFormat       = []byte("format")
)

var (
	errGone    = errors.New(tokenGone)
	errExpired = errors.New(tokenExpired)
	errTooMany = errors.New(tooManyTokens)
	errTooFast = errors.New(tooFast)
	errLookups = errors.New(tooManyLookups)
)

// record is what is kept of a wrapping token. Times are Unix seconds.
type record struct {
	User     string `json:"user"`
	Accessor string `json:"accessor"`
	Created  int64  `json:"created"`
	TTL      int64  `json:"ttl"`
	Sealed   []byte `json:"sealed,omitempty"` // empty once expired
}

func (r *record) expires() time.Time { return time.Unix(r.Created+r.TTL, 0) }

// context is what the payload's encryption binds.
func (r *record) context() []byte {
	b, _ := json.Marshal(record{User: r.User, Accessor: r.Accessor, Created: r.Created, TTL: r.TTL}) // cannot fail: strings and integers
	return b
}

type store struct {
	db  *bolt.DB
	key *stateKey
}

func openStore(dir string, key *stateKey) (*store, error) {
	path := filepath.Join(dir, databaseFile)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another cloister-kms", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	db.MaxBatchDelay = batchDelay
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketTokens, bucketAccessors, bucketCounts, bucketLogins} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch v := meta.Get(keyFormat); {
		case v == nil:
			return meta.Put(keyFormat, []byte(storeFormat))
		case string(v) != storeFormat:
			return fmt.Errorf("format %.20q, this program knows %s", v, storeFormat)
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return &store{db, key}, nil
}

func (s *store) close() error { return s.db.Close() }

// wrap stores data behind a fresh token and returns when it is on disk.
func (s *store) wrap(user string, data []byte, now time.Time, ttl time.Duration, maxTokens int) (string, record, error) {
	var acc [16]byte
	rand.Read(acc[:])
	token := newToken(wrapTokenPrefix)
	rec := record{User: user, Accessor: hex.EncodeToString(acc[:]), Created: now.Unix(), TTL: int64(ttl / time.Second)}
	sealed, err := seal(token, rec.context(), data)
	if err != nil {
		return "", record{}, err
	}
	rec.Sealed = sealed
	var refused error
	err = s.db.Batch(func(tx *bolt.Tx) error {
		refused = nil
		if s.count(tx, user) >= uint64(maxTokens) {
			refused = errTooMany
			return nil
		}
		h := hashToken(token)
		if err := s.put(tx, h, rec); err != nil {
			return err
		}
		if err := tx.Bucket(bucketAccessors).Put(s.key.name(rec.Accessor), h[:]); err != nil {
			return err
		}
		return s.addCount(tx, user, 1)
	})
	if err := errors.Join(err, refused); err != nil {
		return "", record{}, err
	}
	return token, rec, nil
}

// lookup finds an unexpired token.
func (s *store) lookup(token string, now time.Time) (rec record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		rec, err = s.get(tx, hashToken(token), now)
		return err
	})
	return rec, err
}

// redeem returns what the token wraps, after its record is gone from disk:
// the transaction has been synced when Batch returns. Of racing callers the
// first transaction wins, for bbolt has one writer.
func (s *store) redeem(token string, now time.Time) (record, []byte, error) {
	// A token that is not there is refused without the writer, so that
	// guessing costs the others nothing.
	if rec, err := s.lookup(token, now); err != nil {
		return rec, nil, err
	}
	var (
		h       = hashToken(token)
		rec     record
		data    []byte
		refused error
	)
	err := s.db.Batch(func(tx *bolt.Tx) error {
		// Batch may run this again. A refusal is no error of the
		// transaction: it would roll back the others of the batch.
		clear(data)
		data = nil
		if rec, refused = s.get(tx, h, now); refused != nil {
			return nil
		}
		if data, refused = unseal(token, rec.context(), rec.Sealed); refused != nil {
			return nil
		}
		if mutant.Removed(mutant.SingleUse) {
			return nil
		}
		return s.remove(tx, h, rec)
	})
	if err := errors.Join(err, refused); err != nil {
		clear(data)
		return rec, nil, err
	}
	return rec, data, nil
}

// revoke deletes an unused token: the user's own or, for somebody who may,
// anybody's.
func (s *store) revoke(user, accessor string, anybodys bool) error {
	var refused error
	err := s.db.Batch(func(tx *bolt.Tx) error {
		refused = nil
		v := tx.Bucket(bucketAccessors).Get(s.key.name(accessor))
		if len(v) != len(tokenHash{}) {
			refused = errGone
			return nil
		}
		h := tokenHash(v)
		rec, err := s.read(tx, h)
		if err != nil {
			return err
		}
		if rec.User != user && !anybodys {
			refused = errGone
			return nil
		}
		return s.remove(tx, h, rec)
	})
	return errors.Join(err, refused)
}

// purge empties expired records and, a day later, deletes them.
func (s *store) purge(now time.Time) (n int, err error) {
	for {
		due, err := s.due(now)
		if err != nil || len(due) == 0 {
			return n, err
		}
		err = s.db.Update(func(tx *bolt.Tx) error {
			for _, h := range due {
				rec, err := s.read(tx, h)
				if errors.Is(err, errGone) {
					continue
				}
				if err != nil {
					return err
				}
				if !now.Before(rec.expires().Add(keepExpired)) {
					err = s.remove(tx, h, rec)
				} else {
					rec.Sealed = nil
					err = s.put(tx, h, rec)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += len(due)
	}
}

// due lists at most purgeBatch records that purge has to change. It only
// reads, so an idle server writes nothing.
func (s *store) due(now time.Time) ([]tokenHash, error) {
	if mutant.Removed(mutant.Expiry) {
		return nil, nil
	}
	var list []tokenHash
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketTokens).Cursor()
		for k, v := c.First(); k != nil && len(list) < purgeBatch; k, v = c.Next() {
			rec, err := s.decode(k, v)
			if err != nil || len(k) != len(tokenHash{}) {
				return fmt.Errorf("record %x is damaged", k)
			}
			if now.Before(rec.expires()) || (len(rec.Sealed) == 0 && now.Before(rec.expires().Add(keepExpired))) {
				continue
			}
			list = append(list, tokenHash(k))
		}
		return nil
	})
	return list, err
}

// outstanding counts the unused, unexpired tokens of each user.
func (s *store) outstanding(now time.Time) (map[string]int, error) {
	out := make(map[string]int)
	return out, s.each(now, func(rec record) { out[rec.User]++ })
}

// accessors lists at most limit of those of the unused, unexpired tokens that
// come after one, which need not be there any more. Their order is the
// database's own.
func (s *store) accessors(now time.Time, after string, limit int) ([]string, error) {
	out := []string{} // an empty list, not null
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketAccessors).Cursor()
		k, v := c.First()
		if after != "" {
			name := s.key.name(after)
			if k, v = c.Seek(name); bytes.Equal(k, name) {
				k, v = c.Next()
			}
		}
		for ; k != nil && len(out) < limit; k, v = c.Next() {
			if len(v) != len(tokenHash{}) {
				return fmt.Errorf("accessor %x is damaged", k)
			}
			rec, err := s.get(tx, tokenHash(v), now)
			if errors.Is(err, errExpired) {
				continue
			}
			if err != nil {
				return err
			}
			out = append(out, rec.Accessor)
		}
		return nil
	})
	return out, err
}

func (s *store) each(now time.Time, do func(record)) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketTokens).ForEach(func(k, v []byte) error {
			rec, err := s.decode(k, v)
			if err == nil && now.Before(rec.expires()) {
				do(rec)
			}
			return err
		})
	})
}

// byAccessor finds an unexpired token's record.
func (s *store) byAccessor(accessor string, now time.Time) (rec record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketAccessors).Get(s.key.name(accessor))
		if len(v) != len(tokenHash{}) {
			return errGone
		}
		rec, err = s.get(tx, tokenHash(v), now)
		return err
	})
	return rec, err
}

func (s *store) read(tx *bolt.Tx, h tokenHash) (rec record, err error) {
	v := tx.Bucket(bucketTokens).Get(h[:])
	if v == nil {
		return record{}, errGone
	}
	return s.decode(h[:], v)
}

// decode reads a record as it is stored under a token's hash.
func (s *store) decode(h, v []byte) (rec record, err error) {
	plain, err := s.key.open(recordPlace(h), v)
	if err == nil {
		err = json.Unmarshal(plain, &rec)
	}
	if err != nil {
		return record{}, fmt.Errorf("a record is damaged: %w", err)
	}
	return rec, nil
}

func recordPlace(h []byte) string { return "token " + string(h) }

func (s *store) put(tx *bolt.Tx, h tokenHash, rec record) error {
	v, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	return tx.Bucket(bucketTokens).Put(h[:], s.key.seal(recordPlace(h[:]), v))
}

func (s *store) get(tx *bolt.Tx, h tokenHash, now time.Time) (record, error) {
	rec, err := s.read(tx, h)
	// An emptied record has expired, even if the clock was put back since.
	if err == nil && (!now.Before(rec.expires()) && !mutant.Removed(mutant.Expiry) || len(rec.Sealed) == 0) {
		err = errExpired
	}
	return rec, err
}

func (s *store) remove(tx *bolt.Tx, h tokenHash, rec record) error {
	if err := tx.Bucket(bucketTokens).Delete(h[:]); err != nil {
		return err
	}
	if err := tx.Bucket(bucketAccessors).Delete(s.key.name(rec.Accessor)); err != nil {
		return err
	}
	return s.addCount(tx, rec.User, -1)
}

func (s *store) count(tx *bolt.Tx, user string) uint64 {
	v := tx.Bucket(bucketCounts).Get(s.key.name(user))
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func (s *store) addCount(tx *bolt.Tx, user string, delta int64) error {
	n := int64(s.count(tx, user)) + delta
	if n <= 0 {
		return tx.Bucket(bucketCounts).Delete(s.key.name(user))
	}
	return tx.Bucket(bucketCounts).Put(s.key.name(user), binary.BigEndian.AppendUint64(nil, uint64(n)))
}
