package main

import (
	"os"
	"regexp"
	"testing"
)

// Without it journald drops lines of the audit log once there are many.
func TestTheUnitHasJournaldKeepEveryLine(t *testing.T) {
	unit, err := os.ReadFile("../../systemd/cloister-kms.service")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^LogRateLimitIntervalSec=0$`).Match(unit) {
		t.Error("journald's rate limit holds for the unit")
	}
}
