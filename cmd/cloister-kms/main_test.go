package main

import (
	"os"
	"testing"

	"cloister/tests/typist"

	"github.com/rogpeppe/go-internal/testscript"
)

// runAsMain makes the test binary be cloister-kms, for tests that kill it.
const runAsMain = "CLOISTER_KMS_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runAsMain) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"cloister-kms": main})
}

func TestTheCommandLineSession(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a -race run takes a second
		return nil
	}, Cmds: map[string]func(*testscript.TestScript, bool, []string){"types": typist.Types}})
}
