package luks2

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"cloister/secret"
)

func authenticatedHeader(t testing.TB) (head []byte, volumeKey, keyslotKey secret.Bytes) {
	t.Helper()
	volumeKey, err := secret.Random(rand.Reader, AuthenticatedKeySize)
	if err != nil {
		t.Fatal(err)
	}
	if keyslotKey, err = secret.Random(rand.Reader, KeyslotKeySize); err != nil {
		t.Fatal(err)
	}
	head, err = Encode(rand.Reader, Params{UUID: testUUID, Authenticated: true}, volumeKey, keyslotKey)
	if err != nil {
		t.Fatal(err)
	}
	return head, volumeKey, keyslotKey
}

func TestTheHeaderOfAnAuthenticatedVolumeGivesItsKey(t *testing.T) {
	head, volumeKey, keyslotKey := authenticatedHeader(t)
	if len(head) > PayloadOffset {
		t.Fatalf("%d bytes", len(head))
	}
	h, err := Read(bytes.NewReader(head), 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !h.Authenticated || h.Cipher != authenticatedCipher || h.PayloadSize != 19<<20 {
		t.Errorf("%+v", h)
	}
	got, err := h.Unlock(bytes.NewReader(head), keyslotKey)
	if err != nil || !got.Equal(volumeKey) {
		t.Errorf("unlocked a key of %d bytes, %v", got.Len(), err)
	}
}

func TestAKeyOfTheOtherLengthMakesNoHeader(t *testing.T) {
	for _, authenticated := range []bool{false, true} {
		wrong := secret.Alloc(map[bool]int{false: AuthenticatedKeySize, true: VolumeKeySize}[authenticated])
		if _, err := Encode(rand.Reader, Params{UUID: testUUID, Authenticated: authenticated}, wrong, secret.Alloc(KeyslotKeySize)); err == nil {
			t.Errorf("authenticated %v: accepted a key of %d bytes", authenticated, wrong.Len())
		}
	}
}

func TestAnotherAuthenticationIsRefused(t *testing.T) {
	head, _, _ := authenticatedHeader(t)
	text := string(bytes.TrimRight(head[binarySize:headerSize], "\x00"))
	for _, c := range []struct{ old, new, want string }{
		{`"type":"hmac(sha256)"`, `"type":"none"`, "integrity"},
		{`"type":"hmac(sha256)"`, `"type":"aead"`, "integrity"},
		{`"journal_integrity":"none"`, `"journal_integrity":"hmac(sha256)"`, "journal"},
		{`"journal_encryption":"none",`, ``, "journal"},
		{`aes-xts-random`, `aes-xts-plain64`, "aes-xts-random"},
		{`aes-xts-random`, `cipher_null-ecb`, "cipher_null"},
		{`"sector_size":4096`, `"sector_size":512`, "512"},
		{`,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`, ``, "aes-xts-random"},
		{`"key_size":96`, `"key_size":64`, "does not fit the cipher"},
	} {
		altered := strings.Replace(text, c.old, c.new, 1)
		if altered == text {
			t.Fatalf("%s is not in %s", c.old, text)
		}
		b := bytes.Clone(head[:headerSize])
		clear(b[binarySize:])
		copy(b[binarySize:], altered)
		fixSum(b)
		if _, err := Read(bytes.NewReader(append(b, make([]byte, 64<<10)...)), 20<<20); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v", c.new, c.old, err)
		}
	}
}
