package main

import (
	"os"
	"path/filepath"

	"cloister/client/advice"
)

// homeDir is Cloister's own directory: CLOISTER_HOME, else below the user's
// configuration directory. It need not exist.
func homeDir() (string, error) {
	if dir := os.Getenv("CLOISTER_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", advice.Fail("set CLOISTER_HOME to a directory of yours", "finding your configuration directory: %w", err)
	}
	return filepath.Join(dir, "cloister"), nil
}
