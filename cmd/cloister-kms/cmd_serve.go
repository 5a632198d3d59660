package main

import (
	"fmt"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"cloister/kms/server"
)

func newServe(state *string) *cobra.Command {
	var (
		listen    string
		maxTTL    time.Duration
		maxTokens int
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
			cfg := zap.NewProductionConfig()
			cfg.Sampling = nil // an audit log that drops lines is none
			cfg.DisableCaller = true
			log, err := cfg.Build()
			if err != nil {
				return &failure{fmt.Errorf("starting the log: %w", err), "check standard error"}
			}
			defer log.Sync()
			s, err := server.Open(server.Config{Dir: *state, MaxTTL: maxTTL, MaxTokens: maxTokens, Log: log})
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
				log.Info("serving", zap.String("address", l.Addr().String()), zap.String("state", *state), zap.String("version", server.Version))
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
	cmd.Flags().DurationVar(&maxTTL, "max-ttl", server.DefaultMaxTTL, "longest life of a token; longer ones are lowered to it")
	cmd.Flags().IntVar(&maxTokens, "max-tokens", server.DefaultMaxTokens, "unused tokens that one user may have")
	return cmd
}
