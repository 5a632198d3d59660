package main

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"cloister/kms/server"
)

func newServe(p *place) *cobra.Command {
	var (
		listen string
		cfg    server.Config
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve until told to stop; cloister-kms.service runs this",
		Long: `serve answers HTTPS requests until SIGTERM, then finishes those in progress.
Audit lines (JSON, no secret in them) go to standard error, so to the journal.`,
		Example: `  cloister-kms serve
  cloister-kms serve --state ./kms --listen 127.0.0.1:8200`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			z := zap.NewProductionConfig()
			z.Sampling = nil // an audit log that drops lines is none
			z.DisableCaller = true
			log, err := z.Build()
			if err != nil {
				return &failure{fmt.Errorf("starting the log: %w", err), "check standard error"}
			}
			defer log.Sync()
			state, err := p.open(cmd.Context())
			if err != nil {
				return explain(err, "check the state directory")
			}
			defer state.Key.Wipe()
			cfg.Dir, cfg.Key, cfg.Log = state.Dir, state.Key, log
			s, err := server.Open(cfg)
			if err != nil {
				return explain(err, "stop the other cloister-kms, or check the state directory")
			}
			defer s.Close()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return &failure{err, "stop what uses that address, or choose another with --listen"}
			}
			defer l.Close()
			ready := func() {
				log.Info("serving", zap.String("address", l.Addr().String()), zap.String("state", p.dir), zap.String("version", server.Version))
				if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
					log.Error("telling systemd", zap.Error(err))
				}
			}
			if err := s.Serve(cmd.Context(), l, ready); err != nil {
				return &failure{err, "see the lines above"}
			}
			log.Info("stopped")
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":8200", "`address` to listen on")
	f := cmd.Flags()
	f.DurationVar(&cfg.MaxTTL, "max-ttl", server.DefaultMaxTTL, "longest life of a token; longer ones are lowered to it")
	f.IntVar(&cfg.MaxTokens, "max-tokens", server.DefaultMaxTokens, "unused tokens that one user may have")
	f.DurationVar(&cfg.LoginTTL, "login-ttl", server.DefaultLoginTTL, "how long a login lasts")
	f.DurationVar(&cfg.MaxLoginTTL, "max-login-ttl", 0, "how long renewals can make it last (default 168h)")
	f.IntVar(&cfg.MaxRefused, "max-refused", server.DefaultMaxRefused, "refused requests of one address in half a minute, before it has to wait")
	f.IntVar(&cfg.MaxLookups, "max-lookups", server.DefaultMaxLookups, "tokens that one address looks up or renews in half a minute, before it has to wait")
	f.IntVar(&cfg.MaxConns, "max-connections", server.DefaultMaxConns, "open connections of one address; more are closed at once")
	return cmd
}
