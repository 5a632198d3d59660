package policy

import (
	"errors"
	"fmt"
	"time"

	"cloister/sealed"
)

// ErrForbidden is the kind of every sealed.Refusal that comes from a node's
// policy rather than from the sealed job itself.
var ErrForbidden = errors.New("not allowed by the node's policy")

// Facts are what Admit decides on besides the manifest: what Slurm wants to
// launch, and the time. Who the user is, and whether the node is free, is
// decided elsewhere: those are facts about the node.
type Facts struct {
	Now       time.Time
	Nodes     uint32   // that the job spans
	Arguments []string // of the script, without its own name
}

// Admit decides whether this node's policy lets a sealed job run whose
// signature and binding were verified. It returns nil or one *sealed.Refusal,
// the first of: place, time, launch, limits.
func (p *Policy) Admit(m *sealed.Manifest, f Facts) error {
	if err := m.CheckPlace(p.Cluster, string(p.Class)); err != nil {
		return err
	}
	if err := m.CheckTime(f.Now); err != nil {
		return err
	}
	for _, check := range []func(*sealed.Manifest, Facts) error{p.admitLaunch, p.admitJob, p.admitVolumes, p.admitImage} {
		if err := check(m, f); err != nil {
			return err
		}
	}
	return nil
}

const nextAdministrator = "ask the cluster's administrator, or seal it within that limit"

func (p *Policy) admitLaunch(m *sealed.Manifest, f Facts) error {
	if f.Nodes != 1 {
		return forbid("submit it with --nodes=1", "the job asks for %d nodes, a sealed job runs on one", f.Nodes)
	}
	return m.CheckArguments(f.Arguments)
}

func (p *Policy) admitJob(m *sealed.Manifest, _ Facts) error {
	// A client's clock may run an hour ahead, so a node remembers a job for up
	// to an hour more.
	if life, most := m.Expires.Sub(m.Created), time.Duration(p.Jobs.MaxExpiry); life > most {
		return forbid(nextAdministrator, "the job expires %s after it was sealed, this node allows %s", Duration(life), p.Jobs.MaxExpiry)
	}
	if n := len(m.Arguments); n > p.Jobs.MaxArguments {
		return forbid(nextAdministrator, "the job has %d arguments, this node allows %d", n, p.Jobs.MaxArguments)
	}
	if n := len(m.Environment); n > p.Jobs.MaxEnvironment {
		return forbid(nextAdministrator, "the job sets %d environment variables, this node allows %d", n, p.Jobs.MaxEnvironment)
	}
	return nil
}

func (p *Policy) admitVolumes(m *sealed.Manifest, _ Facts) error {
	if n := len(m.Volumes); n > p.Volumes.MaxVolumes {
		return forbid(nextAdministrator, "the job has %d volumes, this node allows %d", n, p.Volumes.MaxVolumes)
	}
	for i, v := range m.Volumes {
		switch {
		case v.Create && !p.Volumes.AllowCreate:
			return forbid("make the volume with cloister volume create, copy it here and seal without create", "the job wants volume %d made here, and this node makes none", i+1)
		case v.Mode == sealed.ReadWrite && v.Pinned.Integrity == nil && !p.Volumes.AllowUnauthenticated:
			return forbid("leave out integrity=none, or have the job make another volume to write to", "the job writes to volume %d, which is not authenticated, and this node forbids that", i+1)
		case v.Create && v.Size > int64(p.Volumes.MaxCreateSize):
			return forbid(nextAdministrator, "volume %d is to be made with %s, this node allows %s", i+1, Size(v.Size), p.Volumes.MaxCreateSize)
		}
	}
	return nil
}

func (p *Policy) admitImage(m *sealed.Manifest, _ Facts) error {
	switch {
	case m.Image == nil && p.Images.Required:
		return forbid("add a line #CLOISTER image=FILE.sif and seal the script again", "this node runs only jobs that have an image")
	case p.Images.InVolumes == ImagesRefused && inVolume(m):
		return forbid("seal the script with the image as a file of its own: #CLOISTER image=FILE.sif", "the image lies in a volume, and this node takes images as files only")
	case m.Image != nil && m.Image.Size > int64(p.Images.MaxSize):
		return forbid(nextAdministrator, "the image has %s, this node allows %s", Size(m.Image.Size), p.Images.MaxSize)
	}
	return nil
}

func inVolume(m *sealed.Manifest) bool {
	i, _ := m.ImageVolume()
	return i >= 0
}

// forbid writes only numbers of the manifest into the cause: the output file
// that it ends up in is no secret.
func forbid(next, cause string, a ...any) error {
	return &sealed.Refusal{Kind: ErrForbidden, Cause: fmt.Sprintf(cause, a...), Next: next}
}
