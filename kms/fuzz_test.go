package kms

import (
	"strings"
	"testing"
)

// FuzzAnswer reads what a server says to somebody who logs in: what is taken
// must be safe to use and to show, what is not must not be shown.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"auth":{"client_token":"s.x","lease_duration":60,"mfa_requirement":null}}`))
	f.Add([]byte(`{"data":{"auth_url":"https://idp.example.org/?state=x"}}`))
	f.Add([]byte(`{"data":{"auth_url":"https://idp.example.org/","user_code":"A","state":"x","poll_interval":"5"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Client{address: "https://kms"}
		shown := func(s string) {
			if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%q would be shown", s)
			}
		}
		flow := &Flow{c: c}
		if err := flow.read("logging in", b); err != nil {
			shown(err.Error())
		} else if flow.URL != "" {
			shown(flow.URL)
			shown(flow.UserCode)
			if !strings.HasPrefix(flow.URL, "http") || flow.state == "" || flow.interval < 0 || flow.interval > maxInterval {
				t.Fatalf("%+v", flow)
			}
		}
		if l, err := c.readLogin("logging in", b); err != nil {
			shown(err.Error())
		} else if checkToken(l.Token) != nil || l.Life < 0 {
			t.Fatalf("%v", l.Life)
		}
	})
}
