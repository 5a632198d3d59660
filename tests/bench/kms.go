package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cloister/kms"
	"cloister/secret"
)

const (
	// kmsTokens is how many tokens each kind of redemption takes.
	kmsTokens = 10_000
	// kmsRaces is how many tokens are raced for, by kmsRacers at once each.
	kmsRaces  = 10_000
	kmsRacers = 4
	// kmsNodes redeem at once; kmsWaiting requests wait for an fsync together.
	kmsNodes   = 32
	kmsWaiting = 128
)

// A keyServer is what tokens are redeemed at.
type keyServer struct {
	name    string
	address string
	caPEM   []byte
	user    secret.Bytes
	client  *kms.Client
	used    func() time.Duration // processor time, nil if nobody knows
}

// measureKMS times the embedded server and, if KMS_ADDR is set, a real one.
func measureKMS(ctx context.Context) error {
	embedded, stop, err := startEmbedded(ctx)
	if err != nil {
		return err
	}
	defer stop()
	servers := []*keyServer{embedded}
	if addr := os.Getenv("KMS_ADDR"); addr != "" {
		ca, err := os.ReadFile(os.Getenv("KMS_CACERT"))
		if err != nil {
			return fmt.Errorf("KMS_ADDR is set, so KMS_CACERT must name a PEM file: %w", err)
		}
		servers = append(servers, &keyServer{name: "server at KMS_ADDR", address: addr, caPEM: ca, user: secret.New([]byte(os.Getenv("KMS_TOKEN")))})
	}
	for _, s := range servers {
		if s.client, err = kms.New(kms.Config{Address: s.address, CAPEM: s.caPEM, Timeout: 30 * time.Second}); err != nil {
			return err
		}
		if err := s.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return measureSealing(ctx, embedded)
}

// startEmbedded runs the release build of cloister-kms on a state on disk.
func startEmbedded(ctx context.Context) (_ *keyServer, stop func(), err error) {
	dir, err := os.MkdirTemp("", "cloister-bench-kms-")
	if err != nil {
		return nil, nil, err
	}
	stop = func() { os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			stop()
		}
	}()
	bin, state := filepath.Join(dir, "cloister-kms"), filepath.Join(dir, "state")
	token := filepath.Join(dir, "token")
	for _, c := range [][]string{
		{"go", "build", "-trimpath", "-o", bin, "./cmd/cloister-kms"},
		{bin, "init", "--state", state, "--address", "127.0.0.1"},
		{bin, "user", "add", "bench", "--state", state, "--token-file", token},
	} {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w\n%s", c[0], err, out)
		}
	}
	// All races are run, and lost, from one address.
	serve := exec.CommandContext(ctx, bin, "serve", "--state", state, "--listen", "127.0.0.1:0",
		"--max-tokens", fmt.Sprint(2*kmsTokens), "--max-refused", fmt.Sprint(kmsRaces*kmsRacers),
		"--max-lookups", fmt.Sprint(kmsRaces*kmsRacers+2*kmsTokens),
		"--max-connections", fmt.Sprint(2*kmsWaiting))
	log, err := serve.StderrPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := serve.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		serve.Process.Signal(syscall.SIGTERM)
		serve.Wait()
		os.RemoveAll(dir)
	}
	lines := bufio.NewReader(log)
	first, err := lines.ReadString('\n')
	var hello struct{ Address string }
	if err != nil || json.Unmarshal([]byte(first), &hello) != nil || hello.Address == "" {
		return nil, nil, fmt.Errorf("cloister-kms said %q, %w", first, err)
	}
	go io.Copy(io.Discard, lines) // the audit log must not block it
	ca, err := os.ReadFile(filepath.Join(state, "ca.pem"))
	if err != nil {
		return nil, nil, err
	}
	user, err := kms.ReadToken(token)
	if err != nil {
		return nil, nil, err
	}
	s := &keyServer{name: "cloister-kms", address: "https://" + hello.Address, caPEM: ca, user: user}
	s.used = func() time.Duration { return processorTime(serve.Process.Pid) }
	return s, stop, nil
}

// clockTick is USER_HZ, which is 100 on every architecture that Go knows.
const clockTick = 10 * time.Millisecond

// processorTime of a process, from fields 14 and 15 of proc_pid_stat(5).
func processorTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	var user, system int64
	fmt.Sscan(string(f[11]), &user)
	fmt.Sscan(string(f[12]), &system)
	return time.Duration(user+system) * clockTick
}

func (s *keyServer) measure(ctx context.Context) error {
	fmt.Printf("\n%s: %d tokens a row, client and server on this machine (load average %s)\n", s.name, kmsTokens, load())
	tokens, row, err := s.wrapped(ctx, kmsTokens)
	if err != nil {
		return err
	}
	row.print("wrap, 64 at once", "")
	if row, err = s.timed(kmsNodes, kmsTokens, func(i int) error {
		_, err := s.client.Redeem(ctx, tokens[i])
		return err
	}); err != nil {
		return err
	}
	row.print(fmt.Sprintf("whole redemption (TCP, TLS, lookup, unwrap), %d nodes at once", kmsNodes), "")
	if tokens, _, err = s.wrapped(ctx, kmsTokens); err != nil {
		return err
	}
	unwrap := s.unwrapper(ctx)
	if row, err = s.timed(kmsWaiting, kmsTokens, func(i int) error {
		if ok, err := unwrap(tokens[i]); err != nil || !ok {
			return cmp.Or(err, errors.New("a fresh token was refused"))
		}
		return nil
	}); err != nil {
		return err
	}
	row.print(fmt.Sprintf("redeem (unwrap over kept connections), %d at once", kmsWaiting), "(budget for cloister-kms ≥ 2000/s)")
	return s.race(ctx)
}

// race lets kmsRacers ask for each token at once.
func (s *keyServer) race(ctx context.Context) error {
	tokens, _, err := s.wrapped(ctx, kmsRaces)
	if err != nil {
		return err
	}
	unwrap := s.unwrapper(ctx)
	won := make([]atomic.Int32, kmsRaces)
	var unclear atomic.Int32
	// Neighbours in the order of work are racers for the same token.
	row, err := s.timed(16*kmsRacers, kmsRaces*kmsRacers, func(i int) error {
		ok, err := unwrap(tokens[i/kmsRacers])
		if errors.Is(err, errUnclear) {
			unclear.Add(1)
			return nil
		}
		if ok {
			won[i/kmsRacers].Add(1)
		}
		return err
	})
	if err != nil {
		return err
	}
	winners := map[int32]int{}
	for i := range won {
		winners[won[i].Load()]++
	}
	row.print(fmt.Sprintf("races of %d for a token", kmsRacers), "")
	fmt.Printf("  %d races: %d with exactly one winner, %d with none, %d with more; %d racers got an answer that says nothing\n",
		kmsRaces, winners[1], winners[0], kmsRaces-winners[1]-winners[0], unclear.Load())
	if winners[1] != kmsRaces {
		return errors.New("a race did not have exactly one winner")
	}
	return nil
}

// wrapped makes n tokens, 64 at a time.
func (s *keyServer) wrapped(ctx context.Context, n int) ([]secret.Bytes, rate, error) {
	key, err := secret.Random(rand.Reader, kms.JobKeySize)
	if err != nil {
		return nil, rate{}, err
	}
	tokens := make([]secret.Bytes, n)
	row, err := s.timed(64, n, func(i int) error {
		t, err := s.client.Wrap(ctx, s.user, key, time.Hour)
		tokens[i] = t.Token
		return err
	})
	return tokens, row, err
}

// errUnclear: Vault answers 500 to some losers of a race.
var errUnclear = errors.New("the server says neither yes nor no")

// unwrapper asks over connections that are kept, as nobody in production does:
// it shows what the server can do, not what TLS handshakes cost.
func (s *keyServer) unwrapper(ctx context.Context) func(secret.Bytes) (bool, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.caPEM)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: kmsWaiting}
	return func(token secret.Bytes) (bool, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, s.address+"/v1/sys/wrapping/unwrap", nil)
		if err != nil {
			return false, err
		}
		r.Header.Set("X-Vault-Token", string(token.Reveal()))
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return false, err
		}
		switch resp.StatusCode {
		case http.StatusOK:
			return true, nil
		case http.StatusBadRequest:
			return false, nil
		case http.StatusInternalServerError:
			return false, errUnclear
		}
		return false, fmt.Errorf("status %d", resp.StatusCode)
	}
}

// rate is how fast something went, and what it cost the server.
type rate struct {
	n    int
	took time.Duration
	used time.Duration
}

func (r rate) print(what, budget string) {
	server := ""
	if r.used > 0 {
		server = fmt.Sprintf("   server %.2f cores, %s each", r.used.Seconds()/r.took.Seconds(), (r.used / time.Duration(r.n)).Round(time.Microsecond))
	}
	fmt.Printf("  %-66s %7.0f/s%s   %s\n", what, float64(r.n)/r.took.Seconds(), server, budget)
}

// timed does n things, workers at a time, in order.
func (s *keyServer) timed(workers, n int, do func(i int) error) (rate, error) {
	var (
		wg     sync.WaitGroup
		next   atomic.Int64
		failed atomic.Pointer[error]
		before time.Duration
	)
	if s.used != nil {
		before = s.used()
	}
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && failed.Load() == nil; i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	r := rate{n: n, took: time.Since(began)}
	if s.used != nil {
		r.used = s.used() - before
	}
	if err := failed.Load(); err != nil {
		return rate{}, *err
	}
	return r, nil
}
