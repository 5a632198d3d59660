//go:build !unix

package volume

import "os"

// lock does nothing: Windows has only locks that would keep this program, too,
// from reading.
func lock(*os.File, bool) error { return nil }
