package sealed

import (
	"bytes"
	"errors"
	"time"

	"cloister/mutant"
	"cloister/sealed/signers"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// A Signer is who signed a sealed job, as Verify found.
type Signer struct {
	Key         ssh.PublicKey // or the certificate that holds it
	Fingerprint string        // "SHA256:…", as ssh-keygen -l prints it
	Users       signers.Principals
}

// CheckSignature checks that the signature covers every byte before it, whoever
// made it. The error is a *Refusal of kind ErrAltered.
func (e *Envelope) CheckSignature() error {
	s := e.signature
	if s.Namespace != Namespace && !mutant.Removed(mutant.SignatureNamespace) {
		return refuse(ErrAltered, nextSealAgain, "the signature is for %q, not for a sealed job", s.Namespace)
	}
	if s.HashAlgorithm != sshsig.HashSHA512 {
		return refuse(ErrAltered, nextSealAgain, "the signature uses %s, a sealed job has sha512", s.HashAlgorithm)
	}
	if mutant.Removed(mutant.SignatureCheck) {
		return nil
	}
	if err := sshsig.Verify(bytes.NewReader(e.signed), s, s.PublicKey, sshsig.HashSHA512, Namespace); err != nil {
		return refuse(ErrAltered, nextTransfer, "the sealed job was altered after it was signed: its signature does not match")
	}
	return nil
}

// Verify does what CheckSignature does, and checks that the list allows the key
// for sealed jobs at the time now. Errors are *Refusal of kind ErrAltered,
// ErrUnknownSigner or ErrExpiredSigner.
func (e *Envelope) Verify(list *signers.List, now time.Time) (Signer, error) {
	if err := e.CheckSignature(); err != nil {
		return Signer{}, err
	}
	s := e.signature
	signer := Signer{Key: s.PublicKey, Fingerprint: signers.Fingerprint(s.PublicKey)}
	users, err := list.Find(s.PublicKey, Namespace, now)
	switch {
	case mutant.Removed(mutant.RegisteredSigner):
	case errors.Is(err, signers.ErrNotNow):
		return Signer{}, refuse(ErrExpiredSigner, "ask the cluster's administrator to renew your line in allowed_signers", "the key %s that signed this job is registered, but not valid at this time", signer.Fingerprint)
	case errors.Is(err, signers.ErrCertificate):
		return Signer{}, refuse(ErrUnknownSigner, "ask whoever issued the certificate for one that lets you sign", "the key %s that signed this job has a certificate that does not count: %v", signer.Fingerprint, err)
	case err != nil:
		return Signer{}, refuse(ErrUnknownSigner, "give the line that cloister init prints to the cluster's administrator", "the key %s that signed this job is not registered on this node", signer.Fingerprint)
	}
	signer.Users = users
	return signer, nil
}

// CheckBinding refuses unless the verified outer signer is the one who made the
// manifest, and user, who submitted the job, is both the manifest's user and
// one of those that allowed_signers lets that key sign for. Without it another
// registered user could sign a stolen ciphertext anew. The error is a *Refusal
// of kind ErrOtherUser.
func CheckBinding(m *Manifest, signer Signer, user string) error {
	if mutant.Removed(mutant.SignerBinding) {
		return nil
	}
	if m.Signer != signer.Fingerprint {
		return refuse(ErrOtherUser, nextSealAgain, "this job was sealed with the key %s, but the file is signed with another key, %s", m.Signer, signer.Fingerprint)
	}
	if m.User != user {
		return refuse(ErrOtherUser, "submit it as the user it was sealed for, or seal your own", "this job was sealed for user %q and submitted by %q", m.User, user)
	}
	return signer.CheckUser(user)
}

// CheckUser refuses unless allowed_signers lets the signer's key sign for user:
// the part of CheckBinding that needs no manifest.
func (s Signer) CheckUser(user string) error {
	if !s.Users.Include(user) {
		return refuse(ErrOtherUser, "ask the cluster's administrator to register your key for your user name", "the key %s signs for %s, not for user %q", s.Fingerprint, s.Users, user)
	}
	return nil
}

// clockSkew is how far a client's clock may run ahead of a node's.
const clockSkew = time.Hour

// CheckTime refuses a job that expired by now or that was made more than an
// hour after it: *Refusal of kind ErrExpired or ErrClock.
func (m *Manifest) CheckTime(now time.Time) error {
	if err := checkExpiry(m.Expires, now); err != nil {
		return err
	}
	if now.Add(clockSkew).Before(m.Created) {
		return refuse(ErrClock, "set the clock of the machine that sealed it, and seal again", "this job was sealed on %s, which is in the future here", m.Created.Format(time.RFC1123))
	}
	return nil
}

// CheckPlace refuses a job that was sealed for another cluster or for another
// class of node: *Refusal of kind ErrOtherCluster or ErrOtherClass.
func (m *Manifest) CheckPlace(cluster, class string) error {
	if mutant.Removed(mutant.Place) {
		return nil
	}
	if m.Cluster != cluster {
		return refuse(ErrOtherCluster, "seal it for this cluster: cloister seal --site "+printable(cluster), "this job was sealed for cluster %q, this is %q", m.Cluster, cluster)
	}
	if m.Class != class {
		return refuse(ErrOtherClass, "submit it to a partition of "+printable(m.Class)+" nodes, or seal it with --class "+printable(class), "this job was sealed for %s nodes, this node is %s", m.Class, class)
	}
	return nil
}
