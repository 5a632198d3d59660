package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cloister/client/advice"
	"cloister/kms"
)

// loginWithin is how long somebody may take at the browser; the servers forget
// a login after ten minutes.
const loginWithin = 10 * time.Minute

// loginOIDC shows the page to log in at and waits for what comes of it. It does
// not open a browser: on a cluster's login node there is none.
func (a *app) loginOIDC(ctx context.Context, client *kms.Client, f loginFlags) (kms.Login, error) {
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	port := strconv.Itoa(int(f.port))
	flow, err := client.StartOIDC(ctx, f.path, f.role, "http://localhost:"+port+callbackPath)
	if err != nil {
		return kms.Login{}, err
	}
	if flow.Polls() {
		a.showPage(flow)
		login, err := flow.Wait(ctx)
		return login, tooLate(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return kms.Login{}, advice.Fail("choose another with --port; the provider must allow it", "waiting for the browser: %w", err)
	}
	a.showPage(flow)
	a.note("The browser must run on this machine, or reach its port %s: ssh -L %s:localhost:%s.\n", port, port, port)
	login, err := callback(ctx, l, flow)
	return login, tooLate(err)
}

func (a *app) showPage(flow *kms.Flow) {
	a.note("Log in at this page:\n\n  %s\n\n", flow.URL)
	if flow.UserCode != "" {
		a.note("It asks for the code %s\n", flow.UserCode)
	}
}

func tooLate(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return advice.Fail("run cloister login again", "nobody logged in within %v", loginWithin)
	}
	return err
}

const callbackPath = "/oidc/callback"

// maxForm is far above what a provider's form has: a state, a code, and an ID
// token of some KiB.
const maxForm = 64 << 10

// callback serves the one request that brings this login's code, and ends.
// Anything may knock at a port of this machine: what has another state, or
// none, changes nothing.
func callback(ctx context.Context, l net.Listener, flow *kms.Flow) (kms.Login, error) {
	type result struct {
		login kms.Login
		err   error
	}
	done := make(chan result, 1)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, q url.Values) {
		if !flow.Came(q.Get("state")) {
			http.Error(w, "This is not the login that cloister waits for.", http.StatusBadRequest)
			return
		}
		var got result
		if q.Get("code") == "" && q.Get("id_token") != "" {
			got.err = advice.Refuse("have the administrator choose response type code, or use bao login", "the provider sent an ID token instead of a code")
		} else if q.Get("code") == "" {
			got.err = advice.Refuse("log in again; the page may have said why", "the provider did not let you in")
		} else {
			got.login, got.err = flow.Finish(ctx, q.Get("state"), q.Get("code"))
		}
		text := "You are logged in. Close this page."
		if got.err != nil {
			text = "The login failed: cloister says why."
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprintln(w, text)
		select {
		case done <- got:
		default: // a second request for the same login
			got.login.Token.Wipe()
		}
	}
	mux.HandleFunc("GET "+callbackPath, func(w http.ResponseWriter, r *http.Request) { answer(w, r.URL.Query()) })
	// A method with response mode form_post has the browser post a form.
	mux.HandleFunc("POST "+callbackPath, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "This is not the form that cloister waits for.", http.StatusBadRequest)
			return
		}
		answer(w, r.PostForm)
	})
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	// The browser gets its answer before the server goes.
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(end) != nil {
			server.Close()
		}
	}()
	select {
	case got := <-done:
		return got.login, got.err
	case err := <-failed:
		return kms.Login{}, fmt.Errorf("waiting for the browser: %w", err)
	case <-ctx.Done():
		return kms.Login{}, fmt.Errorf("waiting for the browser: %w", ctx.Err())
	}
}
