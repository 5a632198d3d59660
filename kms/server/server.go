// Package server is the embedded KMS, for a demonstration and for small sites
// that run no OpenBao or Vault: it answers the response-wrapping part of
// Vault's HTTP API, so that the same client and the stock `bao` and `vault`
// commands talk to all three.
//
// What it keeps opens nothing by itself. Tokens, users' and wrapping ones, are
// stored as SHA-256 only, passwords as argon2id; what is wrapped is encrypted
// under a key derived from the wrapping token, which the server does not keep.
// All of it, and the CA's key, is encrypted once more under a state key that
// lies elsewhere (statekey.go). A redemption is
// deleted on disk, with fsync, before it is answered, so that neither a race
// nor a kill -9 makes a token work twice.
//
// What it does not defend against: somebody who puts an older copy of its
// state directory back makes the tokens in it work again, and whoever rules
// the machine while it runs sees the 32 random bytes of each job that passes.
// Those bytes open nothing without the sealed job and a node's identity.
//
// It is not a general secret store: one JSON object of a few kilobytes behind
// each token, no policies, no other engines.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"cloister/secret"
)

// Version is reported by sys/health.
const Version = "cloister-kms-1"

// Limits; each bounds what one peer or user can cost.
const (
	// DefaultMaxTTL is the default of Vault's max_lease_ttl, 768 hours. A
	// longer life that is asked for is lowered to it, with a warning.
	DefaultMaxTTL = 768 * time.Hour
	// DefaultMaxTokens is how many unused wrapping tokens a user may have:
	// a few large arrays of jobs.
	DefaultMaxTokens = 10_000

	// DefaultLoginTTL is how long a login lasts, DefaultMaxLoginTTL how long
	// renewals can make it last: a working day, a week.
	DefaultLoginTTL    = 12 * time.Hour
	DefaultMaxLoginTTL = 7 * 24 * time.Hour
	// DefaultMaxRefused is how many requests of one address may be refused
	// at once, and half a minute later again. The nodes of a large array that
	// share an address stay far below.
	DefaultMaxRefused = 1500
	// DefaultMaxLookups is how many tokens one address may look up, or renew, in
	// that time: each leaves a line in the log, and a redemption looks up once.
	DefaultMaxLookups = 1500
	// DefaultMaxConns is how many connections one address may have open: an
	// eighth of all. A redemption has its own for some milliseconds, so that the
	// nodes of a large array that share an address stay below.
	DefaultMaxConns = maxConns / 8

	maxBody    = 8 << 10  // request body; a job key needs 59 bytes
	maxHeader  = 16 << 10 // request headers
	maxConns   = 512      // open connections
	maxTokenIn = 256      // bytes of a presented token; ours have 46

	// Ten passwords for one user at once, then one each ten seconds: some
	// 8,600 guesses a day, whoever makes them. Thirty from one address.
	loginsOfBurst, loginsOfEvery     = 10, 10 * time.Second
	loginsFromBurst, loginsFromEvery = 30, 2 * time.Second
	refusedWindow                    = 30 * time.Second

	headerTimeout = 5 * time.Second
	ioTimeout     = 10 * time.Second
	idleTimeout   = 30 * time.Second
	drainTimeout  = 10 * time.Second // for answers in progress at SIGTERM
	purgeInterval = time.Minute
)

// Config is what a Server needs besides its state directory.
type Config struct {
	Dir       string        // state directory, made by Init
	Key       secret.Bytes  // what it is encrypted under, as it was given to Init
	MaxTTL    time.Duration // 0 means DefaultMaxTTL
	MaxTokens int           // unused wrapping tokens a user; 0 means DefaultMaxTokens
	Log       *zap.Logger   // audit lines and errors; never a secret

	LoginTTL    time.Duration // of a login; 0 means DefaultLoginTTL
	MaxLoginTTL time.Duration // with renewals; 0 means DefaultMaxLoginTTL
	MaxRefused  int           // refused requests of one address; 0 means DefaultMaxRefused
	MaxLookups  int           // lookups and renewals of one address; 0 means DefaultMaxLookups
	MaxConns    int           // open connections of one address; 0 means DefaultMaxConns

	now func() time.Time // tests move the clock
}

// Server is an open state directory. Close it after Serve has returned.
type Server struct {
	cfg    Config
	site   *siteConfig
	issuer *issuer
	users  userDir
	store  *store
	log    *zap.Logger

	refused, lookups, loginsFrom originBuckets
	loginsOf                     *buckets // by user
	wraps                        rates
	hashing                      chan struct{}
}

// Open locks the state directory's database and loads the CA.
func Open(cfg Config) (*Server, error) {
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = DefaultMaxTTL
	}
	if cfg.MaxTokens == 0 {
		cfg.MaxTokens = DefaultMaxTokens
	}
	if cfg.LoginTTL == 0 {
		cfg.LoginTTL = DefaultLoginTTL
	}
	if cfg.MaxLoginTTL == 0 {
		cfg.MaxLoginTTL = max(DefaultMaxLoginTTL, cfg.LoginTTL)
	}
	if cfg.MaxRefused == 0 {
		cfg.MaxRefused = DefaultMaxRefused
	}
	if cfg.MaxLookups == 0 {
		cfg.MaxLookups = DefaultMaxLookups
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.MaxTTL < time.Second || cfg.LoginTTL < time.Second || cfg.MaxLoginTTL < cfg.LoginTTL || cfg.MaxTokens < 1 || cfg.MaxRefused < 1 || cfg.MaxLookups < 1 || cfg.MaxConns < 1 {
		return nil, errors.New("opening the KMS: limits must be at least one second, one token, one request, one lookup and one connection")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	sc, key, err := State{cfg.Dir, cfg.Key}.open()
	if err != nil {
		return nil, fmt.Errorf("opening the KMS: %w", err)
	}
	is, err := loadIssuer(cfg.Dir, key, sc.Addresses, cfg.now)
	if err != nil {
		return nil, fmt.Errorf("opening the KMS: %w", err)
	}
	st, err := openStore(cfg.Dir, key)
	if err != nil {
		return nil, fmt.Errorf("opening the KMS: %w", err)
	}
	return &Server{cfg: cfg, site: sc, issuer: is, users: userDir{cfg.Dir, key}, store: st, log: cfg.Log,
		refused:  newOriginBuckets(cfg.MaxRefused, refusedWindow/time.Duration(cfg.MaxRefused), requestsPerNetwork),
		lookups:  newOriginBuckets(cfg.MaxLookups, refusedWindow/time.Duration(cfg.MaxLookups), requestsPerNetwork),
		loginsOf: newBuckets(loginsOfBurst, loginsOfEvery), loginsFrom: newOriginBuckets(loginsFromBurst, loginsFromEvery, loginsPerNetwork),
		hashing: make(chan struct{}, hashesAtOnce)}, nil
}

// Close closes the database.
func (s *Server) Close() error { return s.store.close() }

// Serve answers on l, which it wraps in TLS, until ctx ends; then it finishes
// the answers in progress. ready is called once connections are accepted.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func()) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.issuer.certificate, NextProtos: []string{"http/1.1"}},
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       ioTimeout,
		WriteTimeout:      ioTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(s.log.Named("http")),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	purged := make(chan struct{})
	purgeCtx, stopPurge := context.WithCancel(ctx)
	go func() {
		defer close(purged)
		s.purgeLoop(purgeCtx)
	}()
	defer func() {
		stopPurge()
		<-purged
	}()

	failed := make(chan error, 1)
	go func() {
		each := &perAddress{Listener: l, max: s.cfg.MaxConns, log: s.log, open: map[string]int{}}
		failed <- srv.Serve(tls.NewListener(netutil.LimitListener(each, maxConns), srv.TLSConfig))
	}()
	if ready != nil {
		ready()
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serving the KMS on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		srv.Close()
		return fmt.Errorf("stopping the KMS: answers still in progress after %v: %w", drainTimeout, err)
	}
	return nil
}

func (s *Server) purgeLoop(ctx context.Context) {
	tick := time.NewTicker(purgeInterval)
	defer tick.Stop()
	for {
		if n, err := s.store.purge(s.cfg.now()); err != nil {
			s.log.Error("purging expired tokens", zap.Error(err))
		} else if n > 0 {
			s.log.Info("audit", zap.String("op", "purge"), zap.Int("tokens", n))
		}
		if err := s.store.purgeLogins(s.cfg.now()); err != nil {
			s.log.Error("purging expired logins", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
