package noded

import (
	"context"
	"errors"
	"time"

	"cloister/kms"
	"cloister/noded/audit"
	"cloister/secret"

	"go.uber.org/zap"
)

// Pauses between tries to use a spare token up: short at first, for a lost packet,
// then long enough for a key server that is down.
const (
	firstSparePause   = time.Second
	longestSparePause = 5 * time.Minute
)

// useUpSpare makes the spare token of a job that runs once worthless when its
// script runs: until it expires it would give the key to somebody else, whom
// nobody would notice. It tries until ctx ends, since who is on the network can
// drop what passes. One that is gone already was taken, or revoked just now.
func (d *Daemon) useUpSpare(ctx context.Context, token secret.Bytes, about audit.Entry) {
	detail := "its spare token"
	for pause := firstSparePause; ; pause = min(2*pause, longestSparePause) {
		key, err := d.kms.Redeem(ctx, token)
		key.Wipe()
		switch {
		case err == nil, errors.Is(err, kms.ErrExpired):
			return
		case errors.Is(err, kms.ErrUsed), errors.Is(err, kms.ErrForeign):
			d.noteIncident(audit.TokenUsed, about, detail)
			return
		}
		if kms.MaybeSpent(err) {
			detail = "its spare token, perhaps by this node: the answer to it was lost"
		}
		if pause == firstSparePause {
			d.log.Warn("the spare token is still there", zap.String("session", about.Session), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			d.log.Warn("the spare token may be good until it expires", zap.String("session", about.Session), zap.Error(err))
			return
		case <-time.After(pause):
		}
	}
}

// spareLeft: nobody but this session has a use for the spare token.
func (a *admission) spareLeft() bool { return a.whole.Runs.Count() <= 1 && !a.question.spare }

// usingUpSpare does that beside the job, if the spare is left. What it
// returns ends it, once the session is over. The goroutine has the token alone,
// in memory that is wiped: the manifest would outlive the session with it. A noded
// that starts anew meanwhile has it no more.
func (d *Daemon) usingUpSpare(ctx context.Context, a *admission) (end func()) {
	if !a.spareLeft() {
		return func() {}
	}
	// A key server says of an expired token what it says of one that was taken.
	ctx, cancel := context.WithDeadline(ctx, a.whole.Expires)
	done := make(chan struct{})
	go func(token secret.Bytes, about audit.Entry) {
		defer close(done)
		defer token.Wipe()
		d.useUpSpare(ctx, token, about)
	}(secret.New([]byte(a.whole.Spare)), a.about())
	return func() {
		cancel()
		<-done
	}
}
