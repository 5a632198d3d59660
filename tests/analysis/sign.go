package analysis

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// keyAge backdates keys and signatures: a guest whose clock lags behind must
// not take them for ones from the future.
const keyAge = 48 * time.Hour

// SigningKey is the throwaway key that signs the test images, made on first
// use.
func SigningKey(ctx context.Context) (*openpgp.Entity, error) {
	e, _, err := key(ctx, "signing-key", "Cloister demo images")
	return e, err
}

// key returns a key of the cache and the file with its public half.
func key(ctx context.Context, name, owner string) (e *openpgp.Entity, keyring string, err error) {
	dir, err := cached(ctx, name, func(dir string) error {
		created := time.Now().Add(-keyAge)
		e, err := openpgp.NewEntity(owner, "throwaway key for tests", "", &packet.Config{
			Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return created }})
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		secret := func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, nil) }
		if err := writeArmored(filepath.Join(dir, "private.asc"), openpgp.PrivateKeyType, 0o600, secret); err != nil {
			return err
		}
		return writeArmored(filepath.Join(dir, "public.asc"), openpgp.PublicKeyType, 0o644, e.Serialize)
	})
	if err != nil {
		return nil, "", err
	}
	f, err := os.Open(filepath.Join(dir, "private.asc"))
	if err != nil {
		return nil, "", fmt.Errorf("reading the test images' key: %w", err)
	}
	defer f.Close()
	ring, err := openpgp.ReadArmoredKeyRing(f)
	if err != nil || len(ring) != 1 {
		return nil, "", fmt.Errorf("reading the test images' key from %s: %d keys: %w", f.Name(), len(ring), err)
	}
	return ring[0], filepath.Join(dir, "public.asc"), nil
}

func writeArmored(path, kind string, mode os.FileMode, write func(io.Writer) error) error {
	var b bytes.Buffer
	w, err := armor.Encode(&b, kind, nil)
	if err != nil {
		return err
	}
	if err := write(w); err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), mode)
}

// variants makes SIF files of a squashfs: unsigned, signed, and signed by a
// stranger.
func variants(ctx context.Context, name, squashfs string) (Paths, error) {
	mine, keyring, err := key(ctx, "signing-key", "Cloister demo images")
	if err != nil {
		return Paths{}, err
	}
	stranger, _, err := key(ctx, "stranger-key", "Somebody else")
	if err != nil {
		return Paths{}, err
	}
	id := inputs([]byte(squashfs), mine.PrimaryKey.Fingerprint, stranger.PrimaryKey.Fingerprint)
	dir, err := cached(ctx, name+"-images-"+id, func(dir string) error {
		for _, v := range []struct {
			suffix string
			signer *openpgp.Entity
		}{{"", mine}, {"-unsigned", nil}, {"-stranger", stranger}} {
			if err := writeSIF(filepath.Join(dir, name+v.suffix+".sif"), squashfs, v.signer); err != nil {
				return fmt.Errorf("making the image %s%s.sif: %w", name, v.suffix, err)
			}
		}
		return nil
	})
	if err != nil {
		return Paths{}, err
	}
	at := func(suffix string) string { return filepath.Join(dir, name+suffix+".sif") }
	return Paths{SIF: at(""), Unsigned: at("-unsigned"), Stranger: at("-stranger"), Keyring: keyring}, nil
}

// rootObject is the number of writeSIF's root partition in the image.
const rootObject = 2

// fsGocryptfs is the type of an encrypted squashfs in apptainer's fork of the
// sif module.
const fsGocryptfs sif.FSType = 6

// writeSIF puts the squashfs into a SIF file the way `apptainer build` does,
// with the message that opens it if it is encrypted, and signs all of it if
// there is a signer.
func writeSIF(path, squashfs string, signer *openpgp.Entity, message ...sif.DescriptorInput) error {
	fs := sif.FsSquash
	if len(message) > 0 {
		fs = fsGocryptfs
	}
	f, err := os.Open(squashfs)
	if err != nil {
		return err
	}
	defer f.Close()
	def, err := sif.NewDescriptorInput(sif.DataDeffile, bytes.NewReader([]byte("bootstrap: scratch\n")), sif.OptObjectName("definition"))
	if err != nil {
		return err
	}
	root, err := sif.NewDescriptorInput(sif.DataPartition, f, sif.OptObjectName("root"),
		sif.OptPartitionMetadata(fs, sif.PartPrimSys, "amd64"))
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	img, err := sif.CreateContainer(sparse{out}, sif.OptCreateDeterministic(),
		sif.OptCreateWithLaunchScript("#!/usr/bin/env run-singularity\n"), sif.OptCreateWithDescriptors(append([]sif.DescriptorInput{def, root}, message...)...))
	if err != nil {
		return err
	}
	if signer != nil {
		if err := sign(img, signer); err != nil {
			return fmt.Errorf("signing with %s: %w", hex.EncodeToString(signer.PrimaryKey.Fingerprint), err)
		}
	}
	return img.UnloadContainer()
}

// Padded writes the tiny image, signed, with a root partition of size bytes, all
// but the first of which are a hole.
func Padded(ctx context.Context, path string, size int64) error {
	tiny, err := tinyRoot(ctx)
	if err != nil {
		return err
	}
	signer, err := SigningKey(ctx)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(tiny, "tiny.squashfs"))
	if err != nil {
		return err
	}
	root := path + ".squashfs"
	defer os.Remove(root)
	if err := os.WriteFile(root, b, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(root, size); err != nil {
		return err
	}
	return writeSIF(path, root, signer)
}

// A sparse file leaves holes where whole writes are zeros.
type sparse struct{ f *os.File }

func (s sparse) Write(b []byte) (int, error) {
	if bytes.Trim(b, "\x00") == nil {
		at, err := s.f.Seek(int64(len(b)), io.SeekCurrent)
		if err != nil {
			return 0, err
		}
		if st, err := s.f.Stat(); err != nil || st.Size() >= at {
			return len(b), err
		}
		return len(b), s.f.Truncate(at)
	}
	return s.f.Write(b)
}

func (s sparse) ReadAt(b []byte, off int64) (int, error)   { return s.f.ReadAt(b, off) }
func (s sparse) Seek(off int64, whence int) (int64, error) { return s.f.Seek(off, whence) }
func (s sparse) Truncate(size int64) error                 { return s.f.Truncate(size) }

func sign(img *sif.FileImage, signer *openpgp.Entity) error {
	when := signer.PrimaryKey.CreationTime.Add(time.Hour)
	s, err := integrity.NewSigner(img, integrity.OptSignWithEntity(signer), integrity.OptSignDeterministic(),
		integrity.OptSignWithTime(func() time.Time { return when }))
	if err != nil {
		return err
	}
	return s.Sign()
}
