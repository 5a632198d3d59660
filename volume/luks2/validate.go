package luks2

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what is accepted. They are wider than what cryptsetup writes by
// default (argon2id with at most 1 GiB, 4 threads; pbkdf2 for 2 seconds) and
// bound what a hostile header can cost.
const (
	MaxArgonMemory  = 2 << 20    // KiB, so 2 GiB
	MaxArgonTime    = 64         // passes
	MaxArgonWork    = 16 << 20   // memory in KiB × passes
	MaxArgonCPUs    = 16         // lanes
	MaxIterations   = 50_000_000 // pbkdf2
	MinIterations   = 1000       // pbkdf2; cryptsetup refuses less
	maxKeyslotsSize = 128 << 20  // cryptsetup's LUKS2_MAX_KEYSLOTS_SIZE
	maxDevice       = 1 << 60
	afStripes       = 4000 // the only value that the format allows
	maxSalt         = 64
	areaAlign       = 4096
	areaSectorSize  = 512
	cipherName      = "aes-xts-plain64"

	authenticatedCipher = "aes-xts-random"

	nullCipherPrefix = "cipher_null"
)

// validate checks every rule that reading depends on. deviceSize is that of
// the file.
func (h *onDisk) validate(deviceSize int64) error {
	m := h.meta
	if err := ValidUUID(h.uuid); err != nil {
		return err
	}
	if r := m.Config.Requirements; r != nil && len(r.Mandatory) > 0 {
		return fmt.Errorf("header demands features that are not supported: %.64q", r.Mandatory[0])
	}
	if int64(m.Config.JSONSize) != h.size-binarySize {
		return fmt.Errorf("json_size %d does not fit header size %d", m.Config.JSONSize, h.size)
	}
	ks := int64(m.Config.KeyslotsSize)
	if ks%areaAlign != 0 || ks > maxKeyslotsSize {
		return fmt.Errorf("keyslots_size %d is not a multiple of %d below %d", ks, areaAlign, maxKeyslotsSize)
	}
	if err := m.validKeyslots(2*h.size, 2*h.size+ks); err != nil {
		return err
	}
	if err := m.validSegment(2*h.size+ks, deviceSize); err != nil {
		return err
	}
	if err := m.validTokens(); err != nil {
		return err
	}
	return m.validDigests()
}

// validTokens checks what every type of token has.
func (m *metadata) validTokens() error {
	order, err := ids(m.Tokens)
	if err != nil {
		return fmt.Errorf("token %w", err)
	}
	for _, id := range order {
		t, err := readToken(m.Tokens[id])
		if err == nil {
			err = m.haveKeyslots(t.keyslots)
		}
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
	}
	return nil
}

// haveKeyslots checks a list of keyslots: each is there and named once.
func (m *metadata) haveKeyslots(list []string) error {
	for i, k := range list {
		if _, ok := m.Keyslots[k]; !ok {
			return fmt.Errorf("no keyslot %.8q", k)
		}
		if slices.Contains(list[:i], k) {
			return fmt.Errorf("keyslot %s twice", k)
		}
	}
	return nil
}

func (m *metadata) validKeyslots(from, to int64) error {
	order, err := ids(m.Keyslots)
	if err != nil {
		return fmt.Errorf("keyslot %w", err)
	}
	type span struct{ from, to int64 }
	var spans []span
	for _, id := range order {
		k := m.Keyslots[id]
		if err := k.validate(); err != nil {
			return fmt.Errorf("keyslot %s: %w", id, err)
		}
		s := span{int64(k.Area.Offset), int64(k.Area.Offset) + int64(k.Area.Size)}
		if s.from < from || s.to > to || s.to < s.from {
			return fmt.Errorf("keyslot %s: area lies outside the keyslots area", id)
		}
		for _, o := range spans {
			if s.from < o.to && o.from < s.to {
				return fmt.Errorf("keyslot %s: area overlaps another", id)
			}
		}
		spans = append(spans, s)
	}
	return nil
}

func (k keyslot) validate() error {
	if k.Type != "luks2" {
		return fmt.Errorf("type %.32q is not supported", k.Type)
	}
	if k.KeySize != 32 && k.KeySize != 64 && k.KeySize != AuthenticatedKeySize {
		return fmt.Errorf("key size %d is not 32, 64 or %d bytes", k.KeySize, AuthenticatedKeySize)
	}
	if k.Priority != nil && (*k.Priority < 0 || *k.Priority > 2) {
		return errors.New("priority is not 0, 1 or 2")
	}
	if k.AF.Type != "luks1" || k.AF.Stripes != afStripes {
		return fmt.Errorf("anti-forensic split %.32q with %d stripes is not supported", k.AF.Type, k.AF.Stripes)
	}
	if _, err := hashByName(k.AF.Hash); err != nil {
		return err
	}
	a := k.Area
	if a.Type != "raw" {
		return fmt.Errorf("area type %.32q is not supported", a.Type)
	}
	if err := validCipher(a.Encryption); err != nil {
		return err
	}
	if a.KeySize != 32 && a.KeySize != 64 {
		return fmt.Errorf("area key size %d is not 32 or 64 bytes", a.KeySize)
	}
	if int64(a.Offset)%areaAlign != 0 || int64(a.Size)%areaAlign != 0 || int64(a.Size) < int64(k.KeySize)*afStripes || int64(a.Size) > maxKeyslotsSize {
		return errors.New("area is misaligned or too small for its key")
	}
	return k.KDF.validate()
}

func (k kdf) validate() error {
	if len(k.Salt) < 8 || len(k.Salt) > maxSalt {
		return fmt.Errorf("salt of %d bytes", len(k.Salt))
	}
	switch k.Type {
	case "pbkdf2":
		if k.Time != 0 || k.Memory != 0 || k.CPUs != 0 {
			return errors.New("pbkdf2 with parameters of argon2")
		}
		if k.Iterations < MinIterations || k.Iterations > MaxIterations {
			return fmt.Errorf("pbkdf2 with %d iterations: from %d to %d are accepted", k.Iterations, MinIterations, MaxIterations)
		}
		_, err := hashByName(k.Hash)
		return err
	case "argon2i", "argon2id":
		if k.Hash != "" || k.Iterations != 0 {
			return errors.New("argon2 with parameters of pbkdf2")
		}
		if k.CPUs < 1 || k.CPUs > MaxArgonCPUs || k.Time < 1 || k.Time > MaxArgonTime || k.Memory < 8*k.CPUs || k.Memory > MaxArgonMemory || k.Time*k.Memory > MaxArgonWork {
			return fmt.Errorf("%s with memory %d KiB, %d passes, %d threads: at most %d KiB, %d passes, %d threads and %d KiB × passes are accepted",
				k.Type, k.Memory, k.Time, k.CPUs, MaxArgonMemory, MaxArgonTime, MaxArgonCPUs, MaxArgonWork)
		}
		return nil
	}
	return fmt.Errorf("key derivation %.32q is not supported: argon2id, argon2i and pbkdf2 are", k.Type)
}

func (m *metadata) validSegment(from, deviceSize int64) error {
	if _, err := ids(m.Segments); err != nil {
		return fmt.Errorf("segment %w", err)
	}
	s, ok := m.Segments["0"]
	if !ok || len(m.Segments) != 1 {
		return fmt.Errorf("%d segments: exactly one is supported", len(m.Segments))
	}
	if s.Type != "crypt" {
		return fmt.Errorf("segment type %.32q is not supported", s.Type)
	}
	if len(s.Flags) > 0 {
		return fmt.Errorf("segment flag %.32q is not supported", s.Flags[0])
	}
	if err := s.validCipher(); err != nil {
		return err
	}
	switch s.SectorSize {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("sector size %d is not supported", s.SectorSize)
	}
	if s.IVTweak != 0 {
		return fmt.Errorf("iv_tweak %d is not supported: only 0 is", s.IVTweak)
	}
	off := int64(s.Offset)
	if off < from || off%int64(s.SectorSize) != 0 || off > maxDevice {
		return fmt.Errorf("segment offset %d overlaps the header or is misaligned", off)
	}
	size, err := m.segmentSize(deviceSize)
	if err != nil {
		return err
	}
	if size <= 0 || size%int64(s.SectorSize) != 0 || size > maxDevice || off+size > deviceSize {
		return fmt.Errorf("segment of %d bytes at %d does not fit a file of %d bytes in whole sectors", size, off, deviceSize)
	}
	return nil
}

// hmacSHA256 is the one authentication that is supported, as cryptsetup writes it
// for --integrity hmac-sha256.
var hmacSHA256 = authentication{Type: "hmac(sha256)", JournalEncryption: "none", JournalIntegrity: "none"}

// validCipher wants the authenticated cipher with an integrity object and the
// other without.
func (s segment) validCipher() error {
	if s.Integrity == nil {
		return validCipher(s.Encryption)
	}
	if *s.Integrity != hmacSHA256 {
		return fmt.Errorf("integrity %.32q is not supported: only %s without a journal's key is", s.Integrity.Type, hmacSHA256.Type)
	}
	if s.Encryption != authenticatedCipher || s.SectorSize != SectorSize {
		return fmt.Errorf("cipher %.32q with integrity and sectors of %d bytes is not supported: only %s and %d are", s.Encryption, s.SectorSize, authenticatedCipher, SectorSize)
	}
	return nil
}

// keySize is the length of the keys that Encode takes, in bytes.
func (s segment) keySize() int {
	if s.Integrity != nil {
		return AuthenticatedKeySize
	}
	return VolumeKeySize
}

// segmentSize is the length in bytes; a dynamic segment reaches to the last
// whole sector of the file.
func (m *metadata) segmentSize(deviceSize int64) (int64, error) {
	s := m.Segments["0"]
	if s.Size == "dynamic" {
		n := deviceSize - int64(s.Offset)
		return n - n%int64(s.SectorSize), nil
	}
	n, err := decimal(s.Size)
	if err != nil {
		return 0, fmt.Errorf("segment size: %w", err)
	}
	return n, nil
}

func (m *metadata) validDigests() error {
	order, err := ids(m.Digests)
	if err != nil {
		return fmt.Errorf("digest %w", err)
	}
	found := 0
	bound := map[string]bool{}
	for _, id := range order {
		d := m.Digests[id]
		if d.Type != "pbkdf2" {
			return fmt.Errorf("digest %s: type %.32q is not supported", id, d.Type)
		}
		if _, err := hashByName(d.Hash); err != nil {
			return fmt.Errorf("digest %s: %w", id, err)
		}
		if d.Iterations < 1 || d.Iterations > MaxIterations || len(d.Salt) < 8 || len(d.Salt) > maxSalt || len(d.Digest) < 20 || len(d.Digest) > 64 {
			return fmt.Errorf("digest %s: iterations, salt or length out of bounds", id)
		}
		if err := m.haveKeyslots(d.Keyslots); err != nil {
			return fmt.Errorf("digest %s: %w", id, err)
		}
		for _, k := range d.Keyslots {
			if bound[k] {
				return fmt.Errorf("digest %s: keyslot %s has another digest, too", id, k)
			}
			bound[k] = true
		}
		if slices.Contains(d.Segments, "0") {
			if err := m.segmentKeySizes(d); err != nil {
				return fmt.Errorf("digest %s: %w", id, err)
			}
		}
		for _, s := range d.Segments {
			if s != "0" {
				return fmt.Errorf("digest %s: no segment %.8q", id, s)
			}
		}
		if slices.Contains(d.Segments, "0") {
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("%d digests for the segment, want 1", found)
	}
	return nil
}

// segmentKeySizes checks that the segment's keyslots hold keys of one size.
func (m *metadata) segmentKeySizes(d digest) error {
	for _, k := range d.Keyslots {
		if m.Keyslots[k].KeySize != m.Keyslots[d.Keyslots[0]].KeySize {
			return errors.New("keyslots of one segment hold keys of different sizes")
		}
		if authenticated := m.Segments["0"].Integrity != nil; authenticated != (m.Keyslots[k].KeySize == AuthenticatedKeySize) {
			return fmt.Errorf("keyslot %s holds a key of %d bytes, which does not fit the cipher", k, m.Keyslots[k].KeySize)
		}
	}
	return nil
}

// validCipher names what it refuses; a null cipher would make an attacker's
// plaintext pass as a volume (CVE-2025-59054).
func validCipher(c string) error {
	if strings.HasPrefix(c, nullCipherPrefix) || c == "null" || strings.Contains(c, "cipher_null") {
		return fmt.Errorf("null cipher %.32q is refused: it encrypts nothing", c)
	}
	if c != cipherName {
		return fmt.Errorf("cipher %.32q is not supported: only %s is", c, cipherName)
	}
	return nil
}

// ValidUUID accepts the one textual form that the headers use.
func ValidUUID(s string) error {
	if len(s) != 36 {
		return errors.New("uuid does not have 36 characters")
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return errors.New("uuid is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in lower case")
		}
	}
	return nil
}

func printable(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("character %q is not printable", r)
		}
	}
	return nil
}
