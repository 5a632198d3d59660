package sealed

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"cloister/secret"
)

const (
	runKeyInfo  = "cloister/1/run/volume_key/"
	runSlotInfo = "cloister/1/run/keyslot_key/"
)

// RunSecrets puts the keys of a run in place of those that its volumes have in
// common: of each volume that is PerRun
//
//	HKDF-SHA256(volume key, salt = job id, info "cloister/1/run/volume_key/TASK/ATTEMPT")
//	HKDF-SHA256(keyslot key, salt = job id, info "cloister/1/run/keyslot_key/TASK/ATTEMPT")
//
// each as long as the key that it is made from. So who has the file of one run
// and its keys has nothing of another run's. The manifest is the signed one,
// not that of the run.
func (m *Manifest) RunSecrets(s *Secrets, r Run) error {
	if len(s.Volumes) != len(m.Volumes) {
		return refuse(ErrSecrets, nextSealAgain, "this job has keys of %d volumes, and names %d", len(s.Volumes), len(m.Volumes))
	}
	for i, v := range m.Volumes {
		if !v.PerRun() {
			continue
		}
		own, err := s.Volumes[i].ForRun(m.Job, r)
		if err != nil {
			return err
		}
		s.Volumes[i].Wipe()
		s.Volumes[i] = own
	}
	return nil
}

// ForRun derives the keys of a run's file, see RunSecrets.
func (v VolumeSecret) ForRun(job string, r Run) (VolumeSecret, error) {
	volumeKey, err := derive(v.VolumeKey, job, runKeyInfo, r)
	if err != nil {
		return VolumeSecret{}, err
	}
	keyslotKey, err := derive(v.KeyslotKey, job, runSlotInfo, r)
	if err != nil {
		volumeKey.Wipe()
		return VolumeSecret{}, err
	}
	return VolumeSecret{VolumeKey: volumeKey, KeyslotKey: keyslotKey}, nil
}

func derive(from secret.Bytes, job, info string, r Run) (secret.Bytes, error) {
	if err := CheckJobID(job); err != nil {
		return secret.Bytes{}, err
	}
	if from.Len() < KeyslotKeySize {
		return secret.Bytes{}, fmt.Errorf("deriving the keys of a run: from a key of %d bytes", from.Len())
	}
	key, err := hkdf.Key(sha256.New, from.Reveal(), []byte(job), info+r.task()+"/"+r.attempt(), from.Len())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("deriving the keys of a run: %w", err)
	}
	return secret.New(key), nil
}

// uuid names the file of a run: version 8 of RFC 9562 as its appendix B.2 makes
// it, by SHA-256, of the volume's UUID as the namespace and "TASK/ATTEMPT".
func (r Run) uuid(volume string) string {
	namespace, err := hex.DecodeString(strings.ReplaceAll(volume, "-", ""))
	if err != nil {
		return volume // is none: what validates the manifest says so
	}
	b := sha256.Sum256(append(namespace, r.task()+"/"+r.attempt()...))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}
