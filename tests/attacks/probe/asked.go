package main

import (
	"fmt"
	"os"
)

// asked is for a copy called slurmd: it leaves a file beside itself, of whoever
// asks it for its release.
func asked([]string) error {
	me, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Println("slurm 24.11.5")
	return os.WriteFile(me+".ran", nil, 0o644)
}
