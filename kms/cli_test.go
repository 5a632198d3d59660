package kms_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A commandLine is the stock one, bao or vault, speaking to a target.
type commandLine struct {
	program string
	env     []string
}

func (k target) commandLine(t *testing.T, program, token string) commandLine {
	t.Helper()
	home := t.TempDir()
	ca := filepath.Join(home, "ca.pem")
	if err := os.WriteFile(ca, k.caPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	c := commandLine{program, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}}
	for _, prefix := range []string{"BAO_", "VAULT_"} {
		c.env = append(c.env, prefix+"ADDR="+k.address, prefix+"CACERT="+ca, prefix+"TOKEN="+token, prefix+"MAX_RETRIES=0")
	}
	return c
}

// run returns what the command printed, and its exit status.
func (c commandLine) run(t *testing.T, stdin string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.program, args...)
	cmd.Env, cmd.Stdin = c.env, strings.NewReader(stdin)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), complaints.String(), cmd.ProcessState.ExitCode()
}

func (c commandLine) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, complaints, exit := c.run(t, stdin, args...)
	if exit != 0 {
		t.Fatalf("%v: exit status %d: %s%s", args, exit, out, complaints)
	}
	return out
}

// refused demands that the command fails with the KMS's own words.
func (c commandLine) refused(t *testing.T, words string, args ...string) {
	t.Helper()
	if _, complaints, exit := c.run(t, "", args...); exit == 0 || !strings.Contains(complaints, words) {
		t.Errorf("%v: exit status %d, %q, want a failure with %q", args, exit, complaints, words)
	}
}

type wrapping struct {
	Info struct {
		Token        string
		Accessor     string
		TTL          int
		CreationPath string `json:"creation_path"`
	} `json:"wrap_info"`
}

func (c commandLine) wrap(t *testing.T) (w wrapping) {
	t.Helper()
	out := c.must(t, "", "write", "-format=json", "-wrap-ttl=5m", "sys/wrapping/wrap", "a=b")
	if err := json.Unmarshal([]byte(out), &w); err != nil || w.Info.Token == "" || w.Info.TTL != 300 || w.Info.CreationPath != "sys/wrapping/wrap" {
		t.Fatalf("wrapped: %+v, %v", w, err)
	}
	return w
}

// KMS_CLI names the program: make conformance builds HashiCorp's.
func TestTheStockCommandLineLogsInWrapsLooksUpUnwrapsAndRevokes(t *testing.T) {
	program := os.Getenv("KMS_CLI")
	if program == "" {
		t.Skip("KMS_CLI does not name vault or bao: make conformance does")
	}
	eachWithUsers(t, func(t *testing.T, k target) {
		nobody := k.commandLine(t, program, "")
		nobody.must(t, "", "status")
		token := nobody.must(t, k.password, "login", "-method=userpass", "-no-store", "-field=token", "username="+k.name, "password=-")
		nobody.refused(t, "invalid username or password", "login", "-method=userpass", "-no-store", "username="+k.name, "password=wrong")

		user := k.commandLine(t, program, token)
		if name := user.must(t, "", "token", "lookup", "-format=json"); !strings.Contains(name, k.name) {
			t.Errorf("token lookup: %s", name)
		}
		w := user.wrap(t)
		if path := nobody.must(t, "", "write", "-field=creation_path", "sys/wrapping/lookup", "token="+w.Info.Token); path != "sys/wrapping/wrap" {
			t.Errorf("lookup: %q", path)
		}
		if a := nobody.must(t, "", "unwrap", "-field=a", w.Info.Token); a != "b" {
			t.Errorf("unwrapped: %q", a)
		}
		const gone = "wrapping token is not valid or does not exist"
		nobody.refused(t, gone, "unwrap", w.Info.Token)

		w = user.wrap(t)
		user.must(t, "", "token", "revoke", "-accessor", w.Info.Accessor)
		nobody.refused(t, gone, "unwrap", w.Info.Token)
		user.must(t, "", "token", "revoke", "-self")
		user.refused(t, "permission denied", "token", "lookup")
	})
}
