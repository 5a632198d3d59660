//go:build !windows

package site

import "github.com/google/renameio/v2"

// renameio.WriteFile would keep the mode of the file that it replaces.
func writeFile(path string, b []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
