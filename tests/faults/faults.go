// Package faults kills noded at each call by which a session changes its node,
// and has each such call fail and hang, one at a time, on a real cluster. After
// each the job must have failed or gone on, the node must be clean or fenced,
// nothing of the job may be found on it, and a node that says that it is in
// service must run the next secure job.
//
// The calls are listed by watching a session (command tracer), not by hand.
package faults

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"cloister/tests/analysis"
	"cloister/tests/canary"
	"cloister/tests/canary/search"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
	"cloister/tests/faults/call"
)

// The node, and the user of its jobs. An on-demand node does what a dedicated
// one does, and opens and closes besides.
const (
	node = cluster.S2
	who  = "alice"
)

// What every job has besides its results.
const (
	inputs    = "in.luks"
	imageFile = "tiny.sif"
	keyFile   = "key.pem"
)

// A Bench is a site whose node cluster.S2 can be made to fail.
type Bench struct {
	site    *deploy.Site
	dir     string
	sealer  *canary.Sealer
	look    *canary.NodeSearch
	log     func(string, ...any)
	build   string // the noded that is tested
	word    string // what the jobs read and write
	secrets []search.Needle
	jobs    int
	ahead   chan job
	calls   []call.Call // of the last session without a fault
	usual   string      // what configures the node while no session has it
}

// Start returns a bench. The caller must Close it.
func Start(ctx context.Context, log func(string, ...any)) (_ *Bench, err error) {
	s, err := deploy.Start(ctx, deploy.Release, log)
	if err != nil {
		return nil, err
	}
	b := &Bench{site: s, log: log}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "cloister-faults-"); err != nil {
		return nil, err
	}
	if b.sealer, err = canary.NewSealer(ctx, s, b.dir); err != nil {
		return nil, err
	}
	if b.look, err = canary.NewNodeSearch(ctx, s, b.dir, node); err != nil {
		return nil, err
	}
	if err := b.belongings(ctx); err != nil {
		return nil, err
	}
	if err := b.install(ctx); err != nil {
		return nil, err
	}
	if b.build, err = Build(ctx); err != nil {
		return nil, err
	}
	if b.usual, err = s.Output(ctx, node, configuration); err != nil {
		return nil, err
	}
	b.sealAhead(ctx)
	return b, nil
}

// Renew starts afresh, after a bad outcome.
func (b *Bench) Renew(ctx context.Context) error {
	if err := b.Close(); err != nil {
		return err
	}
	fresh, err := Start(ctx, b.log)
	if err == nil {
		*b = *fresh
	}
	return err
}

// Close ends the site.
func (b *Bench) Close() error {
	if b.ahead != nil {
		<-b.ahead
		b.ahead = nil // a bench that could not be renewed is closed twice
	}
	os.RemoveAll(b.dir)
	return b.site.Close()
}

// KeepLogs writes what the cluster's nodes logged to a new directory.
func (b *Bench) KeepLogs(ctx context.Context) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "cloister-faults-logs-"); err != nil {
		return "", err
	}
	return dir, b.site.KeepLogs(ctx, dir)
}

// Site is for a test that wants its logs.
func (b *Bench) Site() *deploy.Site { return b.site }

// belongings makes what all jobs have.
func (b *Bench) belongings(ctx context.Context) error {
	var data search.Needle
	b.word, data = canary.NewWord("data")
	if err := b.site.MakeVolume(ctx, who, inputs, map[string]string{"secret.txt": b.word + "\n"}); err != nil {
		return err
	}
	word, file := canary.NewWord("secret file")
	if err := b.site.Write(who, keyFile, word+"\n"); err != nil {
		return err
	}
	images, err := analysis.Tiny(ctx)
	if err != nil {
		return err
	}
	if err := b.site.CopyToLaptop(who, images.SIF, imageFile); err != nil {
		return err
	}
	if err := b.site.Upload(ctx, who, imageFile); err != nil {
		return err
	}
	keys, err := canary.VolumeKeys(b.site, inputs)
	b.secrets = append(keys, data, file)
	return err
}

const tracerPath = "/usr/local/sbin/cloister-tracer"

// install puts noded under the tracer.
func (b *Bench) install(ctx context.Context) error {
	program := filepath.Join(b.dir, "tracer")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "cloister/tests/faults/tracer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tracer: %w: %s", err, out)
	}
	if err := b.site.Put(ctx, node, program, tracerPath, 0o755); err != nil {
		return err
	}
	_, err := b.site.Output(ctx, node, `set -e
systemd-run -q --unit=cloister-tracer `+tracerPath+` serve
mkdir -p /run/systemd/system/cloister-noded.service.d
printf '[Service]\nExecStart=\nExecStart=`+tracerPath+` run /usr/sbin/cloister-noded\n' > /run/systemd/system/cloister-noded.service.d/tracer.conf
systemctl daemon-reload
timeout 30 sh -c 'until [ -S /run/cloister-faults.sock ]; do sleep 0.2; done'
systemctl restart cloister-noded`)
	return err
}

// Build names the noded that is tested: results of one are not another's.
func Build(ctx context.Context) (string, error) {
	dir, err := deploy.Build(ctx, deploy.Release)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(dir, "cloister-noded"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))[:16], nil
}
