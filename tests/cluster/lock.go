package cluster

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A fileLock is an flock(2): it ends with the process that holds it, however that ends.
type fileLock struct{ f *os.File }

func lockFile(path string, how int) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &fileLock{f}, nil
}

func lockShared(path string) (*fileLock, error)    { return lockFile(path, unix.LOCK_SH) }
func lockExclusive(path string) (*fileLock, error) { return lockFile(path, unix.LOCK_EX) }

// tryLock returns an error at once if anybody else holds the lock.
func tryLock(path string) (*fileLock, error) { return lockFile(path, unix.LOCK_EX|unix.LOCK_NB) }

func (l *fileLock) unlock() {
	if l != nil {
		l.f.Close()
	}
}
