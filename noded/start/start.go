// Package start brings noded up: it reads the node's files, checks the node
// and connects the daemon with systemd. It decides nothing.
package start

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister/identity"
	"cloister/kms"
	"cloister/noded"
	"cloister/noded/audit"
	"cloister/noded/handoff"
	"cloister/noded/nodecheck"
	"cloister/noded/redeem"
	"cloister/noded/replay"
	"cloister/noded/session"
	"cloister/policy"

	"filippo.io/age"
	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Config says where the node's files are.
type Config struct {
	PolicyFile, RunDir, StateDir string
	// Node is the Slurm node name; the host's short name if empty.
	Node      string
	CheckOnly bool
	// Version is noded's own, for its records.
	Version string
}

// kmsTimeout bounds one redemption, both of its requests together.
const kmsTimeout = 20 * time.Second

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	p, err := readPolicy(c.PolicyFile)
	if err != nil {
		return err
	}
	node := nodecheck.Node{Class: string(p.Class)}
	if c.CheckOnly {
		faults := node.Check()
		for _, f := range faults {
			fmt.Println(f)
		}
		if len(faults) > 0 {
			return fmt.Errorf("%d things are wrong with this node", len(faults))
		}
		fmt.Println("nothing is wrong with this node")
		return nil
	}
	// No part of this process may reach a disk or another process's eyes.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	log, err := newLog()
	if err != nil {
		return err
	}
	defer log.Sync()
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("asking for the host name: %w", err)
		}
		c.Node, _, _ = strings.Cut(host, ".")
	}
	records, err := openRecords(c, log)
	if err != nil {
		return err
	}
	defer records.Close()
	d, err := build(c, p, node, records, log)
	if err != nil {
		return err
	}
	from, err := inherited()
	if err != nil {
		return err
	}
	server, err := handoff.NewServer(from.launches, log)
	if err != nil {
		return err
	}
	if err := d.Start(ctx); err != nil {
		return err
	}
	if err := (noded.Notifier{}).Ready(); err != nil {
		return fmt.Errorf("telling systemd that noded is ready: %w", err)
	}
	if interval, err := daemon.SdWatchdogEnabled(false); err != nil {
		return fmt.Errorf("asking for the watchdog's interval: %w", err)
	} else if interval > 0 {
		go d.Watchdog(ctx, interval)
	}
	if err := from.answer(ctx, d, log); err != nil {
		return err
	}
	// Launches wait in the socket meanwhile. A noded that is told to end before it
	// is through serves none, and ends in order.
	if err := d.Recover(ctx, from.kept); err != nil && ctx.Err() == nil {
		return err
	}
	return d.Serve(ctx, server)
}

func build(c Config, p *policy.Policy, node nodecheck.Node, records *audit.Log, log *zap.Logger) (*noded.Daemon, error) {
	ids, err := identities(log)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(p.KMS.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the KMS's CA: %w", err)
	}
	client, err := redeem.New(kms.Config{Address: p.KMS.Address, CAPEM: ca, Timeout: kmsTimeout})
	if err != nil {
		return nil, err
	}
	journal, err := session.OpenJournal(filepath.Join(c.RunDir, "sessions"))
	if err != nil {
		return nil, err
	}
	seen, err := replay.Open(filepath.Join(c.StateDir, "jobs"))
	if err != nil {
		return nil, err
	}
	return noded.New(noded.Config{
		Policy: p, Identities: ids, KMS: client, Node: c.Node, Check: node.Check, Memory: node.WatchMemory, Journal: journal, Replay: seen,
		RunDir: c.RunDir, Log: log, Records: records, Version: c.Version, Systemd: noded.Notifier{}, Slurm: slurm{c.Node},
	}), nil
}

func readPolicy(path string) (*policy.Policy, error) {
	b, err := readBounded(path, policy.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading the policy %s: %w", path, err)
	}
	return p, nil
}

// identities reads the credential that systemd puts where noded alone sees it.
func identities(log *zap.Logger) ([]age.Identity, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, errors.New("no credentials: start cloister-noded.service, which loads the node's identity")
	}
	b, err := readBounded(filepath.Join(dir, "identity"), identity.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity: %w", err)
	}
	defer clear(b)
	list, err := identity.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity (cloister node keygen makes one): %w", err)
	}
	var ids []age.Identity
	for _, i := range list {
		if !i.Until.IsZero() {
			log.Info("an identity of this node counts for a time", zap.String("recipient", i.Recipient()[:24]+"…"),
				zap.Time("until", i.Until), zap.Bool("over", i.Over(time.Now())))
		}
		ids = append(ids, i)
	}
	return ids, nil
}

func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}
