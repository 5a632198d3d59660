//go:build cluster

package e2e

import (
	"os/exec"
	"testing"

	"cloister/tests/cluster"
)

// The demo is the main job on real data: an analysis of the lung cancer data
// set in a signed image, compared byte for byte with the same analysis in the
// open. It checks all that it tells.
func TestTheDemoIsAsItTells(t *testing.T) {
	t.Parallel()
	cluster.TakeTurn(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "./tests/demo")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
