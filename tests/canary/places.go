package canary

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cloister/tests/canary/search"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// A place is somewhere that a secret may not be.
type place struct {
	name    string
	planted planted
	plant   func(context.Context, *deploy.Site, planted) error
	// open returns what is to be searched.
	open func(ctx context.Context, s *deploy.Site, dir string) ([]source, error)
}

// A source is one stream of a place.
type source struct {
	io.ReaderAt
	size  int64
	close func() error
}

const captureFile = "traffic.pcap"

func memoryFile(dir, node string) string { return filepath.Join(dir, node+".memory") }

func allPlaces() (all []*place) {
	for _, node := range secureNodes {
		all = append(all, memoryOf(node))
	}
	all = append(all, &place{"traffic", newPlanted(false), plantTraffic, openTraffic})
	for _, node := range cluster.Nodes {
		all = append(all, diskOf(node))
	}
	all = append(all, &place{"/shared", newPlanted(false), plantFile(cluster.Head, "/shared/planted"), openOutput(cluster.Head, "tar -C / -S -cf - shared || [ $? = 1 ]")})
	for _, node := range cluster.Nodes {
		all = append(all, &place{"journal of " + node, newPlanted(true), plantMessage(node), openOutput(node, "journalctl --all -o export")})
	}
	all = append(all, &place{"slurmctld's state", newPlanted(true), plantJob, openOutput(cluster.Head, "tar -C / -cf - var/spool/slurmctld || [ $? = 1 ]")})
	for _, node := range cluster.Nodes {
		all = append(all, &place{"Slurm's files on " + node, newPlanted(false), plantSlurm(node), openOutput(node, "find /var/spool/slurm* /var/log/slurm -xdev -type f 2>/dev/null | tar -cf - -T - || [ $? = 1 ]")})
	}
	return all
}

func memoryOf(node string) *place {
	return &place{"memory of " + node, newPlanted(false), plantFile(node, "/dev/shm/planted"), openFiles(func(dir string) string { return memoryFile(dir, node) })}
}

func diskOf(node string) *place {
	return &place{"disk of " + node, newPlanted(false), plantFile(node, "/var/tmp/planted"), openDisk(node)}
}

// plantSlurm writes where Slurm keeps its logs.
func plantSlurm(node string) func(context.Context, *deploy.Site, planted) error {
	return func(ctx context.Context, s *deploy.Site, p planted) error {
		if _, err := s.Output(ctx, node, "mkdir -p /var/log/slurm"); err != nil {
			return err
		}
		return plantFile(node, "/var/log/slurm/planted.log")(ctx, s, p)
	}
}

func openFile(path string) (source, error) {
	f, err := os.Open(path)
	if err != nil {
		return source{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return source{}, errors.Join(err, f.Close())
	}
	return source{f, info.Size(), f.Close}, nil
}

func openFiles(path func(dir string) string) func(context.Context, *deploy.Site, string) ([]source, error) {
	return func(_ context.Context, _ *deploy.Site, dir string) ([]source, error) {
		f, err := openFile(path(dir))
		return []source{f}, err
	}
}

// openDisk returns what the guest sees of what was written, and the file that holds it: discarded blocks are in the
// latter alone, files whose blocks lie apart are whole in the former.
func openDisk(node string) func(context.Context, *deploy.Site, string) ([]source, error) {
	return func(ctx context.Context, s *deploy.Site, _ string) ([]source, error) {
		d, err := s.OpenDisk(ctx, node)
		if err != nil {
			return nil, err
		}
		path, err := s.Overlay(node)
		if err != nil {
			return nil, err
		}
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		return []source{{d, d.Size(), d.Close}, f}, nil
	}
}

// openOutput returns a command's output. Tar's status 1 means that a file changed while it was read. It is compressed on its way here, by whatever path it takes.
func openOutput(node, command string) func(context.Context, *deploy.Site, string) ([]source, error) {
	return func(ctx context.Context, s *deploy.Site, dir string) ([]source, error) {
		const packed = "/var/tmp/canary.out.gz" // on disk: /shared is larger than the tmpfs of /run
		local := filepath.Join(dir, "output.gz")
		defer os.Remove(local)
		if _, err := s.Output(ctx, node, "bash -c 'set -o pipefail; { "+command+"; } | gzip -1 > "+packed+"'"); err != nil {
			return nil, err
		}
		if err := s.Get(ctx, node, packed, local); err != nil {
			return nil, err
		}
		if _, err := s.Output(ctx, node, "rm "+packed); err != nil {
			return nil, err
		}
		f, err := os.Open(local)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("unpack what %s gave: %w", node, err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			return nil, fmt.Errorf("unpack what %s gave: %w", node, err)
		}
		return []source{memory(b)}, nil
	}
}

func memory(b []byte) source {
	return source{bytes.NewReader(b), int64(len(b)), func() error { return nil }}
}

// openTraffic returns the packets as they were captured and what each TCP connection carried.
func openTraffic(_ context.Context, _ *deploy.Site, dir string) ([]source, error) {
	f, err := openFile(filepath.Join(dir, captureFile))
	if err != nil {
		return nil, err
	}
	streams, err := tcpStreams(io.NewSectionReader(f, 0, f.size))
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return []source{f, memory(streams)}, nil
}

// An outcome is what was found in one place.
type outcome struct {
	place  *place
	report search.Report
}

type findings []outcome

// searchAll searches each place for everything, the other places' planted values included: what is in one place may
// well be in another, and does no harm there.
func searchAll(ctx context.Context, s *deploy.Site, dir string, places []*place, needles []search.Needle) (findings, error) {
	var out findings
	for _, p := range places {
		all := append([]search.Needle(nil), needles...)
		all = append(all, p.planted.needles()...)
		m, err := search.NewMatcher(all)
		if err != nil {
			return nil, err
		}
		sources, err := p.open(ctx, s, dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		o := outcome{place: p}
		for _, src := range sources {
			r, err := m.Search(ctx, src, src.size)
			if err = errors.Join(err, src.close()); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			o.report.Bytes += r.Bytes
			o.report.Members += r.Members
			o.report.Hits = append(o.report.Hits, r.Hits...)
		}
		out = append(out, o)
	}
	return out, nil
}
