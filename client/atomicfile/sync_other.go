//go:build !unix

package atomicfile

// Windows cannot open a directory to sync it; NTFS journals the name.
func syncDir(string) error { return nil }
