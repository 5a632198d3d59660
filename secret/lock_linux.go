package secret

import "golang.org/x/sys/unix"

// Locking is best effort: an unprivileged client has an RLIMIT_MEMLOCK of
// 8 MiB or less, and a key that could not be locked is still wiped.
func lock(b []byte) {
	if len(b) > 0 {
		_ = unix.Mlock(b)
	}
}

func unlock(b []byte) {
	if len(b) > 0 {
		_ = unix.Munlock(b)
	}
}
