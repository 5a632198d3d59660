package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// SaveMemory writes all memory of a running guest, as it is at one moment, to a file on the host. The guest stands
// still for that, and has its clock set afterwards: Slurm takes a node whose clock is five minutes behind for down.
func (c *Cluster) SaveMemory(ctx context.Context, name, path string) error {
	g, err := c.guest(name)
	if err != nil {
		return err
	}
	if err := g.saveMemory(ctx, path); err != nil {
		return err
	}
	return c.setClock(ctx, g)
}

func (n *node) saveMemory(ctx context.Context, path string) error {
	return n.monitor(ctx, func(m *monitor) (err error) {
		if _, err := m.do("stop", nil); err != nil {
			return err
		}
		defer func() {
			_, cont := m.do("cont", nil)
			err = errors.Join(err, cont)
		}()
		// All of it lies below the q35 machine's hole at 2 GiB, from address 0 on.
		size := int64(n.spec.Memory) << 20
		if _, err := m.do("pmemsave", map[string]any{"val": 0, "size": size, "filename": path}); err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err == nil && info.Size() != size {
			err = fmt.Errorf("the saved memory has %d bytes, not %d", info.Size(), size)
		}
		return err
	})
}

// A Disk is what one cluster wrote to a guest's disk: the clusters of its overlay, in the guest's order, put
// together. What the saved state below already held is not in it.
type Disk struct {
	f       *os.File
	extents []extent
	size    int64
}

type extent struct {
	Start  int64  `json:"start"`  // on the guest's disk, in bytes
	Length int64  `json:"length"` // in bytes
	Depth  int    `json:"depth"`  // 0: in the overlay itself
	Data   bool   `json:"data"`
	Offset *int64 `json:"offset"` // in the overlay's file; nil for zeros

	at int64 // in the Disk
}

// OpenDisk reads where the overlay holds data. The guest should have synced before, and may run on.
func (c *Cluster) OpenDisk(ctx context.Context, name string) (*Disk, error) {
	path, err := c.Overlay(name)
	if err != nil {
		return nil, err
	}
	d, err := openOverlay(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("the disk of %s: %w", name, err)
	}
	return d, nil
}

func openOverlay(ctx context.Context, path string) (*Disk, error) {
	out, err := exec.CommandContext(ctx, "qemu-img", "map", "-U", "--output=json", path).Output()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	var all []extent
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	d := &Disk{}
	for _, e := range all {
		if e.Depth != 0 || !e.Data {
			continue
		}
		if e.Offset == nil {
			return nil, fmt.Errorf("map %s: a compressed cluster at %d", path, e.Start)
		}
		e.at = d.size
		d.extents = append(d.extents, e)
		d.size += e.Length
	}
	if d.f, err = os.Open(path); err != nil {
		return nil, err
	}
	return d, nil
}

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size }

// Close closes the file.
func (d *Disk) Close() error { return d.f.Close() }

// ReadAt reads across extents.
func (d *Disk) ReadAt(b []byte, off int64) (n int, err error) {
	for _, e := range d.extents {
		if off >= e.at+e.Length || n == len(b) {
			continue
		}
		skip := off - e.at
		part := b[n:min(int64(len(b)), int64(n)+e.Length-skip)]
		k, err := d.f.ReadAt(part, *e.Offset+skip)
		n += k
		off += int64(k)
		if err == io.EOF { // the file ends within its last cluster: the rest is zeros
			clear(part[k:])
			n += len(part) - k
			off += int64(len(part) - k)
			err = nil
		}
		if err != nil {
			return n, err
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
