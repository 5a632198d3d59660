package sealed

import (
	"bytes"
	"errors"
	"fmt"

	"cloister/secret"

	"golang.org/x/crypto/chacha20poly1305"
)

// The plaintext is JSON that only these pieces make up, so that it is written
// and read without the copies of a JSON package, and has one encoding.
const (
	secretsHead  = `{"volumes":[`
	secretsEntry = `{"volume_key":"`
	secretsNext  = `","keyslot_key":"`
	secretsEnd   = `"}`
	secretsFiles = `],"files":[` // only if there are any
	secretsTail  = `]}`
)

// secretsSize is the least length of the sealed secrets of n volumes and of
// some files.
func secretsSize(n, files int) int {
	const key, file = (minVolumeKey + 2) / 3 * 4, len(`"AA=="`)
	size := len(secretsHead) + n*(len(secretsEntry)+key+len(secretsNext)+len(secretsEnd)) + max(0, n-1) + len(secretsTail) + chacha20poly1305.Overhead
	if files > 0 {
		size += len(secretsFiles) + files*file + files - 1
	}
	return size
}

func (s *Secrets) encode() (secret.Bytes, error) {
	if len(s.Volumes) > MaxVolumes {
		return secret.Bytes{}, fmt.Errorf("%d volumes, at most %d are served", len(s.Volumes), MaxVolumes)
	}
	if err := checkFiles(s.Files); err != nil {
		return secret.Bytes{}, err
	}
	perVolume := len(secretsEntry) + len(secretsNext) + len(secretsEnd) + 1 + (MaxVolumeKey+KeyslotKeySize+4)/3*4 + 4
	room := len(secretsHead) + len(secretsFiles) + len(secretsTail) + len(s.Volumes)*perVolume
	for _, f := range s.Files {
		room += len(`"",`) + (f.Len()+2)/3*4
	}
	whole := secret.Alloc(room)
	b := append(whole.Reveal()[:0], secretsHead...)
	for i, v := range s.Volumes {
		if err := v.check(); err != nil {
			whole.Wipe()
			return secret.Bytes{}, fmt.Errorf("volume %d: %w", i+1, err)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, secretsEntry...)
		b = appendEncoded(b, v.VolumeKey)
		b = append(b, secretsNext...)
		b = appendEncoded(b, v.KeyslotKey)
		b = append(b, secretsEnd...)
	}
	for i, f := range s.Files {
		if i == 0 {
			b = append(b, secretsFiles...)
		} else {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = appendEncoded(b, f)
		b = append(b, '"')
	}
	b = append(b, secretsTail...)
	out := secret.Alloc(len(b))
	copy(out.Reveal(), b)
	whole.Wipe()
	return out, nil
}

func appendEncoded(b []byte, k secret.Bytes) []byte {
	e := k.Encode()
	defer e.Wipe()
	return append(b, e.Reveal()...)
}

func (v *VolumeSecret) check() error {
	if n := v.VolumeKey.Len(); n < minVolumeKey || n > MaxVolumeKey {
		return fmt.Errorf("a volume key of %d bytes", n)
	}
	if n := v.KeyslotKey.Len(); n != 0 && n != KeyslotKeySize {
		return fmt.Errorf("a keyslot key of %d bytes", n)
	}
	return nil
}

func checkFiles(files []secret.Bytes) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("%d secret files, at most %d are served", len(files), MaxFiles)
	}
	size := 0
	for i, f := range files {
		if f.Len() == 0 {
			return fmt.Errorf("secret file %d is empty", i+1)
		}
		size += f.Len()
	}
	if size > MaxFile {
		return fmt.Errorf("the secret files have %d bytes together, at most %d are served", size, MaxFile)
	}
	return nil
}

func decodeSecrets(b []byte) (*Secrets, error) {
	s := new(Secrets)
	r := reader{rest: b}
	r.skip(secretsHead)
	for r.err == nil && !bytes.HasPrefix(r.rest, []byte("]")) {
		if len(s.Volumes) == MaxVolumes {
			r.err = errors.New("too many volumes")
			break
		}
		if len(s.Volumes) > 0 {
			r.skip(",")
		}
		var v VolumeSecret
		r.skip(secretsEntry)
		v.VolumeKey = r.key()
		r.skip(secretsNext)
		v.KeyslotKey = r.key()
		r.skip(secretsEnd)
		s.Volumes = append(s.Volumes, v)
		if r.err == nil {
			r.err = v.check()
		}
	}
	if bytes.HasPrefix(r.rest, []byte(secretsFiles)) {
		r.files(s)
	}
	if r.err == nil && !bytes.Equal(r.rest, []byte(secretsTail)) {
		r.err = errors.New("unexpected form")
	}
	if r.err != nil {
		s.Wipe()
		return nil, r.err
	}
	return s, nil
}

func (r *reader) files(s *Secrets) {
	r.skip(secretsFiles)
	for more := true; r.err == nil && more; {
		r.skip(`"`)
		s.Files = append(s.Files, r.key())
		r.skip(`"`)
		if r.err == nil {
			r.err = checkFiles(s.Files)
		}
		if more = bytes.HasPrefix(r.rest, []byte(",")); more {
			r.skip(",")
		}
	}
}

// A reader takes fixed pieces and keys off the front; after an error it does
// nothing more.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) skip(piece string) {
	rest, ok := bytes.CutPrefix(r.rest, []byte(piece))
	if !ok && r.err == nil {
		r.err = errors.New("unexpected form")
	}
	r.rest = rest
}

func (r *reader) key() secret.Bytes {
	n := bytes.IndexByte(r.rest, '"')
	if r.err != nil || n < 0 {
		r.err = errors.New("unexpected form")
		return secret.Bytes{}
	}
	k, err := secret.Decode(r.rest[:n]) // wipes what it read
	if err != nil {
		r.err = err
	}
	r.rest = r.rest[n:]
	return k
}
