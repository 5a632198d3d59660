package noded

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cloister/noded/account"
	"cloister/noded/handoff"
	"cloister/policy"
	"cloister/sealed"
)

func TestAJobThatFitsNoAnswerIsRefusedWhileItsTokenIsUnused(t *testing.T) {
	d, _ := idleDaemon(policy.OnDemand)
	longest := func() *admission {
		path := "/" + strings.Repeat("p", sealed.MaxPath-1)
		a := &admission{
			request: &handoff.Request{Cwd: path}, stdout: path, stderr: path,
			user:  account.Account{Name: strings.Repeat("u", sealed.MaxName), Home: path},
			whole: &sealed.Manifest{Runs: &sealed.Runs{Tasks: []uint32{0, 1<<22 - 1}, Attempts: 1}},
		}
		env := map[string]string{}
		for i := range sealed.MaxEnvironment {
			name := fmt.Sprintf("V%03d", i)
			env[name] = strings.Repeat("x", sealed.MaxTogether/sealed.MaxEnvironment-len(name))
		}
		a.manifest = &sealed.Manifest{Environment: env}
		return a
	}
	if err := d.checkAnswer(longest()); err != nil {
		t.Errorf("the longest that can be sealed: %v", err)
	}
	for what, change := range map[string]func(*admission){
		"a directory with a line end": func(a *admission) { a.request.Cwd = "/work\n/x" },
		"variables of 64 KiB":         func(a *admission) { a.manifest.Environment["V"] = strings.Repeat("x", handoff.DatagramMax/2) },
	} {
		a := longest()
		change(a)
		var known *sealed.Refusal
		if err := d.checkAnswer(a); !errors.As(err, &known) || !strings.Contains(known.Next, "submit from a directory") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
