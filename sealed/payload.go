package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"filippo.io/age"
)

// Payload joins a manifest and the inner script to what Encode encrypts.
func Payload(m *Manifest, script []byte) ([]byte, error) {
	line, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	if err := checkScript(script); err != nil {
		return nil, err
	}
	return slices.Concat(line, []byte{'\n'}, script), nil
}

// Decrypt opens the encrypted part and returns the manifest, validated, and
// the inner script. It does not ask who signed: call Verify first. Errors are
// *Refusal of kind ErrOtherNode, ErrAltered or ErrManifest.
func (e *Envelope) Decrypt(identities ...age.Identity) (*Manifest, []byte, error) {
	r, err := age.Decrypt(bytes.NewReader(e.ciphertext), identities...)
	if err != nil {
		if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
			return nil, nil, refuse(ErrOtherNode, "seal it with a current site file of this cluster and for this class of node", "this job was not encrypted to this node")
		}
		return nil, nil, refuse(ErrAltered, nextSealAgain, "the encrypted part of this job does not open")
	}
	payload, err := readAll(r, MaxPayload)
	if err != nil {
		return nil, nil, refuse(ErrAltered, nextSealAgain, "the encrypted part of this job does not open: %v", err)
	}
	m, script, err := split(payload)
	if err != nil {
		return nil, nil, refuse(ErrManifest, nextSealAgain, "the manifest of this job is not valid: %v", err)
	}
	if !m.Notice().is(e.notice) {
		return nil, nil, refuse(ErrManifest, nextSealAgain, "this job says in clear another expiry or other arguments than it was sealed with")
	}
	return m, script, nil
}

// split wipes the payload: whoever holds the script, for as long as a system
// call hangs, does not hold the manifest's tokens with it.
func split(payload []byte) (*Manifest, []byte, error) {
	defer clear(payload)
	line, script, ok := bytes.Cut(payload, []byte{'\n'})
	if !ok {
		return nil, nil, errors.New("it has no end")
	}
	m, err := ParseManifest(line)
	if err != nil {
		return nil, nil, err
	}
	if err := checkScript(script); err != nil {
		return nil, nil, err
	}
	return m, bytes.Clone(script), nil
}

// checkScript wants what the kernel can execute and a C string can hold.
func checkScript(script []byte) error {
	if !bytes.HasPrefix(script, []byte("#!")) {
		return errors.New("the script does not start with a #! line")
	}
	if i := bytes.IndexByte(script, 0); i >= 0 {
		return fmt.Errorf("the script has a NUL at byte %d", i+1)
	}
	return nil
}
