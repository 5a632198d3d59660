//go:build !linux

package audit

import (
	"errors"
	"os"
)

// noded runs on Linux alone; elsewhere the client only reads records.
func dropCache(*os.File) error { return errors.ErrUnsupported }
