package kms

import "time"

// SlowDownBy makes a poll that was asked to slow down wait for d more.
func SlowDownBy(d time.Duration) (restore func()) {
	old := slowDownBy
	slowDownBy = d
	return func() { slowDownBy = old }
}
