package volume

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// TestChildCreatesUnderALimit is the other half of TestAFullDiskLeavesNothing
// and does nothing when it is run alone.
func TestChildCreatesUnderALimit(t *testing.T) {
	dir := os.Getenv("VOLUME_TEST_DIR")
	if dir == "" {
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 3 << 20, Max: 3 << 20}
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	_, _, err := Create(context.Background(), CreateOptions{Path: filepath.Join(dir, "v"), From: os.Getenv("VOLUME_TEST_FROM"), Rand: rand.Reader})
	fmt.Println(err)
}
