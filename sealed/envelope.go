package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloister/mutant"

	"filippo.io/age/armor"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

const (
	shebang = "#!/bin/sh\n"

	// The first command ends what sbatch reads as #SBATCH lines, and runs
	// when somebody submits the file without --secure. 78 is EX_CONFIG of
	// sysexits.h.
	hint = "echo 'cloister: this job is sealed: submit me with sbatch --secure' >&2\n" +
		"exit 78\n"

	// The terminator cannot occur in the here-document: base64 has no '-',
	// and the four armor lines differ from it.
	marker     = "CLOISTER-SEALED-JOB-"
	terminator = marker + "1"
	document   = ": <<'" + terminator + "'\n"

	sigHeader = "-----BEGIN SSH SIGNATURE-----\n"
)

// HintExitStatus is what a sealed job exits with when it runs as an ordinary
// script.
const HintExitStatus = 78

// An Envelope is a sealed job whose shape was found right. Nothing in it is
// verified before Verify returns.
type Envelope struct {
	sbatch     []string
	notice     Notice
	ciphertext []byte // binary age file
	signature  *sshsig.Signature
	signed     []byte // every byte before the signature's BEGIN line
}

// SBATCH returns the #SBATCH lines, without line ends.
func (e *Envelope) SBATCH() []string { return slices.Clone(e.sbatch) }

// Notice returns what the file says in clear.
func (e *Envelope) Notice() Notice { return e.notice }

// Signed returns what the signature covers: every byte of the file before the
// signature's BEGIN line.
func (e *Envelope) Signed() []byte { return slices.Clone(e.signed) }

// ClaimedKey is the public key inside the signature. It means nothing before
// Verify succeeds.
func (e *Envelope) ClaimedKey() ssh.PublicKey { return e.signature.PublicKey }

// Parse reads a sealed job. It accepts exactly what Encode writes: a file that
// differs in any byte from its own re-encoding (CRLF, blanks around the armor,
// other line lengths, altered base64 tail bits, bytes after the end) is
// refused. Errors are *Refusal of kind ErrNotSealed or ErrAltered.
func Parse(file []byte) (*Envelope, error) {
	if len(file) > MaxSize {
		return nil, refuse(ErrNotSealed, nextSealAgain, "the script is %d bytes, a sealed job has at most %d", len(file), MaxSize)
	}
	i := bytes.Index(file, []byte(marker))
	if i < 0 {
		return nil, refuse(ErrNotSealed, "seal the script with cloister seal and submit the sealed job", "this is an ordinary script, not a sealed job")
	}
	if version, _, _ := bytes.Cut(file[i+len(marker):], []byte("'")); string(version) != "1" {
		return nil, refuse(ErrNotSealed, "seal the script with a cloister of the version that this cluster runs", "this is a sealed job of another format version")
	}
	e, err := parse(file)
	if err != nil {
		return nil, refuse(ErrAltered, nextTransfer, "the sealed job was altered after it was made: %v", err)
	}
	return e, nil
}

func parse(file []byte) (*Envelope, error) {
	rest, ok := bytes.CutPrefix(file, []byte(shebang))
	if !ok {
		return nil, errors.New("it does not start with #!/bin/sh")
	}
	head, rest, ok := bytes.Cut(rest, []byte(hint))
	notice, rest, follows := bytes.Cut(rest, []byte("\n"+document))
	if !ok || !follows {
		return nil, errors.New("the lines before the encrypted part are not those of a sealed job")
	}
	e := &Envelope{}
	var err error
	if e.notice, err = parseNotice(string(notice)); err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(head)) {
		e.sbatch = append(e.sbatch, strings.TrimSuffix(line, "\n"))
	}
	if err := CheckSBATCH(e.sbatch); err != nil {
		return nil, err
	}
	i := bytes.Index(rest, []byte(sigHeader))
	if i < 0 {
		return nil, errors.New("it has no signature")
	}
	armored, tail := rest[:i], rest[i:]
	e.signed = file[:len(file)-len(tail)]

	armoredSig, ok := bytes.CutSuffix(tail, []byte(terminator+"\n"))
	if !ok {
		return nil, errors.New("its last line is not the terminator")
	}
	if e.signature, err = sshsig.Unarmor(armoredSig); err != nil {
		return nil, fmt.Errorf("reading its signature: %w", err)
	}
	if err := canonicalSignature(e.signature); err != nil {
		return nil, err
	}
	e.ciphertext, err = readAll(armor.NewReader(bytes.NewReader(armored)), MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading its encrypted part: %w", err)
	}
	again, err := e.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, file) && !mutant.Removed(mutant.CanonicalEncoding) {
		return nil, errors.New("it differs from its own re-encoding")
	}
	e.signed = slices.Clone(e.signed)
	return e, nil
}

// encode writes the whole file from its parts.
func (e *Envelope) encode() ([]byte, error) {
	var b bytes.Buffer
	if err := e.writeSigned(&b); err != nil {
		return nil, err
	}
	b.Write(sshsig.Armor(e.signature))
	b.WriteString(terminator + "\n")
	return b.Bytes(), nil
}

// writeSigned writes every byte that the signature covers.
func (e *Envelope) writeSigned(b *bytes.Buffer) error {
	b.WriteString(shebang)
	for _, l := range e.sbatch {
		b.WriteString(l + "\n")
	}
	b.WriteString(hint + e.notice.line() + "\n" + document)
	w := armor.NewWriter(b)
	if _, err := w.Write(e.ciphertext); err != nil {
		return fmt.Errorf("armoring the encrypted part: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("armoring the encrypted part: %w", err)
	}
	return nil
}
