package sealing

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"cloister/client/advice"
	"cloister/client/jobs"
	"cloister/sealed"
)

// replace looks at what lies where the sealed job will: only an empty file and
// another sealed job are replaced.
func (s *sealing) replace() error {
	if st, err := os.Stat(s.o.Out); errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode().IsRegular() && st.Size() == 0 {
		return nil
	}
	old, err := readFile(s.o.Out, sealed.MaxSize)
	if err != nil {
		return err
	}
	if _, err := sealed.Parse(old); err != nil {
		return advice.Refuse("name another file with -o", "%s is there already, and is no sealed job", s.o.Out)
	}
	sum := sha256.Sum256(old)
	r, err := jobs.Find(s.o.Home, hex.EncodeToString(sum[:]))
	if errors.Is(err, jobs.ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Revoked.IsZero() && r.Expires.After(s.o.Now()) {
		s.warnings = append(s.warnings, fmt.Sprintf("%s replaces job %s: a copy of that can still run until %s. To end that: cloister revoke %[2]s",
			s.o.Out, r.Job, r.Expires.Format(time.DateOnly)))
	}
	return nil
}
