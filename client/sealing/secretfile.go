package sealing

import (
	"fmt"
	"io"
	"os"

	"cloister/client/advice"
	"cloister/client/directives"
	"cloister/sealed"
	"cloister/secret"
)

func (s *sealing) secretFiles() error {
	room := sealed.MaxFile
	for _, d := range s.script.Secrets {
		content, err := s.secretFile(d, room)
		if err != nil {
			return err
		}
		room -= content.Len()
		s.secrets.Files = append(s.secrets.Files, content)
		s.m.Files = append(s.m.Files, d.Name)
	}
	return nil
}

// secretFile reads a file of at most room bytes into locked memory and nowhere else.
func (s *sealing) secretFile(d directives.Secret, room int) (secret.Bytes, error) {
	file, ok := s.local(d.File)
	if !ok {
		return secret.Bytes{}, advice.Refuse(sayWhere(d.File), "line %d: there is no file %s here", d.Line, d.File)
	}
	f, err := os.Open(file)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("line %d: opening the secret: %w", d.Line, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("line %d: opening the secret: %w", d.Line, err)
	}
	switch {
	case !st.Mode().IsRegular() || st.Size() == 0:
		return secret.Bytes{}, advice.Refuse("give a file that holds the secret", "line %d: %s holds none", d.Line, file)
	case st.Size() > int64(room):
		return secret.Bytes{}, advice.Refuse("put large files into a volume", "line %d: with %s the secrets have more than %d bytes together", d.Line, file, sealed.MaxFile)
	}
	content := secret.Alloc(int(st.Size()))
	if _, err := io.ReadFull(f, content.Reveal()); err != nil {
		content.Wipe()
		return secret.Bytes{}, fmt.Errorf("line %d: reading the secret %s: %w", d.Line, file, err)
	}
	return content, nil
}
