package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Encode encrypts payload (see Payload) to the recipients, signs the whole and
// returns the sealed job. The notice must be that of the payload's manifest, and
// the signer's key of a type and size that package signers accepts, else no node
// would take the job.
func Encode(sbatch []string, notice Notice, payload []byte, recipients []age.Recipient, signer ssh.Signer) ([]byte, error) {
	if err := CheckSBATCH(sbatch); err != nil {
		return nil, err
	}
	switch {
	case len(payload) > MaxPayload:
		return nil, fmt.Errorf("sealing: manifest and script are %d bytes together, at most %d are served", len(payload), MaxPayload)
	case len(recipients) == 0:
		return nil, errors.New("sealing: no recipient")
	case len(recipients) > MaxRecipients:
		return nil, fmt.Errorf("sealing: %d recipients, at most %d are served", len(recipients), MaxRecipients)
	}
	var ciphertext bytes.Buffer
	w, err := age.Encrypt(&ciphertext, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting the job: %w", err)
	}
	if _, err := w.Write(payload); err != nil {
		return nil, fmt.Errorf("encrypting the job: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypting the job: %w", err)
	}
	e := &Envelope{sbatch: sbatch, notice: notice, ciphertext: ciphertext.Bytes()}
	var signed bytes.Buffer
	if err := e.writeSigned(&signed); err != nil {
		return nil, err
	}
	if e.signature, err = sshsig.Sign(bytes.NewReader(signed.Bytes()), signer, sshsig.HashSHA512, Namespace); err != nil {
		return nil, fmt.Errorf("signing the job: %w", err)
	}
	file, err := e.encode()
	if err != nil {
		return nil, err
	}
	if len(file) > MaxSize {
		return nil, fmt.Errorf("sealing: the sealed job would be %d bytes, Slurm takes at most %d", len(file), MaxSize)
	}
	// An agent may answer with anything: what this package would refuse to
	// read is never handed out.
	if _, err := Parse(file); err != nil {
		return nil, fmt.Errorf("reading the new sealed job back: %w", err)
	}
	return file, nil
}

// readAll reads r to its end and refuses more than limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("longer than %d bytes", limit)
	}
	return b, nil
}
