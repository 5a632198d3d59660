package server

import (
	"sync"
	"time"
)

// buckets hold back whoever asks too often: each key may do `burst` things at
// once and one more every `every`.
type buckets struct {
	burst float64
	every time.Duration

	mu   sync.Mutex
	used map[string]level
}

// level is how full a bucket was at a time.
type level struct {
	used float64
	at   time.Time
}

// maxBuckets bounds their memory. When there are more, the fullest stay: who
// brings ten thousand addresses does not free their own.
const maxBuckets = 10_000

func newBuckets(burst int, every time.Duration) *buckets {
	return &buckets{burst: float64(burst), every: every, used: make(map[string]level)}
}

func (b *buckets) now(key string, now time.Time) float64 {
	l := b.used[key]
	// A clock that was put back empties nothing.
	return max(0, l.used-max(0, float64(now.Sub(l.at))/float64(b.every)))
}

// full reports whether key has to wait.
func (b *buckets) full(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now(key, now)+1 > b.burst
}

// take counts one for key and reports whether there was room. What has to wait
// is not counted, so that waiting helps.
func (b *buckets) take(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.now(key, now) + 1
	if used > b.burst {
		return false
	}
	if _, known := b.used[key]; !known && len(b.used) >= maxBuckets {
		b.drop(now)
	}
	b.used[key] = level{used, now}
	return true
}

// drop forgets the empty buckets or, if there is none, the emptiest half.
func (b *buckets) drop(now time.Time) {
	for limit := 0.0; len(b.used) >= maxBuckets; limit = 2*limit + 1 {
		for k := range b.used {
			if b.now(k, now) <= limit {
				delete(b.used, k)
			}
		}
	}
}
