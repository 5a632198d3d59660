package main

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"cloister/volume/verity"
)

// printCores says how much more all cores hash together than one alone. A
// virtual machine's cores can be two threads of one real core, which its kernel
// isn't told, and then what is spread over them gets little faster.
func printCores() {
	one, all := hashing(1), hashing(runtime.NumCPU())
	fmt.Printf("\nSHA-256 of blocks, as for the hash tree: one core %.0f MB/s, all %d at once %.0f MB/s: %.2f ×\n",
		one/1e6, runtime.NumCPU(), all/1e6, all/one)
}

// hashing is the bytes that so many goroutines hash in a second.
func hashing(goroutines int) float64 {
	const size = 1 << 18 // the pieces that create works in; they stay in the cache
	began, done := time.Now(), make([]int, goroutines)
	var wg sync.WaitGroup
	for i := range done {
		wg.Go(func() {
			h := verity.NewHasher(make([]byte, verity.SaltSize))
			data, out := make([]byte, size), make([]byte, 0, size/verity.BlockSize*verity.DigestSize)
			for time.Since(began) < 2*time.Second {
				h.Append(out, data)
				done[i] += size
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range done {
		sum += n
	}
	return float64(sum) / time.Since(began).Seconds()
}
