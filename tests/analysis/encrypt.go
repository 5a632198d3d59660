package analysis

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sylabs/sif/v2/pkg/sif"
)

// Encrypted returns the tiny image as `apptainer build --encrypt` writes it for
// an ordinary user, signed, and the PEM key that opens it. The root partition
// is a squashfs that holds gocryptfs.conf and the real squashfs as
// gocryptfs encrypts it; the passphrase lies beside it, encrypted by RSA-OAEP
// (apptainer's internal/pkg/image/driver and pkg/util/cryptkey). Building it
// needs root and /dev/fuse.
func Encrypted(ctx context.Context) (image, key string, err error) {
	tiny, err := tinyRoot(ctx)
	if err != nil {
		return "", "", err
	}
	signer, err := SigningKey(ctx)
	if err != nil {
		return "", "", err
	}
	plain := filepath.Join(tiny, "tiny.squashfs")
	dir, err := cached(ctx, "encrypted-"+inputs([]byte(plain), signer.PrimaryKey.Fingerprint), func(dir string) error {
		passphrase := rand.Text()
		squashfs, err := encryptSquashfs(ctx, dir, plain, passphrase)
		if err != nil {
			return err
		}
		message, err := wrapKey(filepath.Join(dir, "key.pem"), passphrase)
		if err != nil {
			return err
		}
		return writeSIF(filepath.Join(dir, "encrypted.sif"), squashfs, signer, message)
	})
	return filepath.Join(dir, "encrypted.sif"), filepath.Join(dir, "key.pem"), err
}

func encryptSquashfs(ctx context.Context, dir, plain, passphrase string) (string, error) {
	pass, cipher, mount, out := filepath.Join(dir, "pass"), filepath.Join(dir, "cipher"), filepath.Join(dir, "mount"), filepath.Join(dir, "encrypted.squashfs")
	if err := os.WriteFile(pass, []byte(passphrase+"\n"), 0o600); err != nil {
		return "", err
	}
	defer os.Remove(pass)
	for _, d := range []string{cipher, mount} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
		defer os.RemoveAll(d)
	}
	if err := run(ctx, "gocryptfs", "-q", "-init", "-deterministic-names", "-plaintextnames", "-scryptn", "10", "-passfile", pass, cipher); err != nil {
		return "", err
	}
	if err := run(ctx, "gocryptfs", "-q", "-passfile", pass, cipher, mount); err != nil {
		return "", err
	}
	err := run(ctx, "cp", plain, filepath.Join(mount, "squashfs-1"))
	if undo := run(ctx, "umount", mount); err == nil {
		err = undo
	}
	if err != nil {
		return "", err
	}
	return out, run(ctx, "mksquashfs", cipher, out, "-quiet", "-no-progress", "-noappend", "-no-xattrs", "-all-root")
}

// wrapKey makes an RSA key, writes it to path, and returns the object of the
// image that holds the passphrase. Its link to object 2 is writeSIF's partition.
func wrapKey(path, passphrase string) (sif.DescriptorInput, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return sif.DescriptorInput{}, fmt.Errorf("making a key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return sif.DescriptorInput{}, err
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, []byte(passphrase), nil)
	if err != nil {
		return sif.DescriptorInput{}, fmt.Errorf("encrypting the passphrase: %w", err)
	}
	der, err := asn1.Marshal(sealed)
	if err != nil {
		return sif.DescriptorInput{}, err
	}
	return sif.NewDescriptorInput(sif.DataCryptoMessage, bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "MESSAGE", Bytes: der})),
		sif.OptLinkedID(rootObject), sif.OptCryptoMessageMetadata(sif.FormatPEM, sif.MessageRSAOAEP))
}
