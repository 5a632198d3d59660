package sealing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloister/client/jobs"
	"cloister/kms"
	"cloister/secret"
)

// A Revocation counts what Revoke found.
type Revocation struct {
	Revoked int // tokens that are worthless now
	Gone    int // tokens that were no longer there: used, expired or revoked before
}

// Revoke kills the unused tokens of a job that was sealed here, by their
// accessors, and notes that in its record. It tries all of them before it
// returns the first error, unless nobody answers; run it again then.
func Revoke(ctx context.Context, home string, k KMS, userToken secret.Bytes, r *jobs.Record, now time.Time) (Revocation, error) {
	var done Revocation
	var failed error
	for i, accessor := range r.Accessors {
		switch err := k.Revoke(ctx, userToken, accessor); {
		case err == nil:
			done.Revoked++
		case errors.Is(err, kms.ErrUsed):
			done.Gone++
		case failed == nil:
			failed = fmt.Errorf("token %d of %d: %w", i+1, len(r.Accessors), err)
		}
		if errors.Is(failed, kms.ErrUnreachable) {
			break
		}
	}
	if failed != nil {
		return done, failed
	}
	if done.Revoked > 0 {
		r.Revoked = now.UTC().Truncate(time.Second)
		return done, jobs.Put(home, r)
	}
	return done, nil
}
