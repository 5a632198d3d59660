package volume

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

const (
	someHex     = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	someUUID    = "6f1b1c1e-2f0a-4d58-9d0f-0123456789ab"
	pinnedRead  = `{"cipher":"aes-xts-plain64","sector_size":4096,"payload_offset":1048576,"payload_size":1048576,"uuid":"` + someUUID + `","verity":{"algorithm":"sha256","data_block_size":4096,"hash_block_size":4096,"hash_offset":2097152,"hash_size":12288,"root_hash":"` + someHex + `","salt":"` + someHex + `"}}`
	pinnedTags  = `{"cipher":"aes-xts-random","sector_size":4096,"payload_offset":1048576,"payload_size":1048576,"uuid":"` + someUUID + `","integrity":{"algorithm":"hmac-sha256","tag_size":48,"interleave_size":16777216,"journal_size":540672}}`
	pinnedWrite = `{"cipher":"aes-xts-plain64","sector_size":4096,"payload_offset":1048576,"payload_size":1048576,"uuid":"` + someUUID + `"}`
)

func TestPinnedAcceptsOnlyTheOneForm(t *testing.T) {
	for _, good := range []string{pinnedRead, pinnedWrite, pinnedTags, strings.ReplaceAll(pinnedWrite, ",", ",\n  ")} {
		var p Pinned
		if err := json.Unmarshal([]byte(good), &p); err != nil {
			t.Fatalf("%s: %v", good, err)
		}
	}
	for _, c := range []struct{ from, old, new string }{
		{pinnedWrite, `"cipher":"aes-xts-plain64"`, `"cipher":"cipher_null-ecb"`},
		{pinnedWrite, `"cipher":"aes-xts-plain64"`, `"cipher":"aes-cbc-essiv:sha256"`},
		{pinnedWrite, `"cipher":"aes-xts-plain64",`, ``},
		{pinnedWrite, `"cipher":`, `"Cipher":`},
		{pinnedWrite, `{"cipher":`, `{"cipher":"x","cipher":`},
		{pinnedWrite, `"cipher":`, `"extra":1,"cipher":`},
		{pinnedWrite, `aes-xts`, `aes\u002dxts`},
		{pinnedWrite, `"uuid":"` + someUUID + `"`, `"uuid":"` + someUUID + `","verity":null`},
		{pinnedWrite, someUUID, strings.ToUpper(someUUID)},
		{pinnedWrite, someUUID, "../../etc/passwd"},
		{pinnedWrite, `4096`, `512`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":1048577`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":0`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":-1048576`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":9223372036854775807`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":1048576.0`},
		{pinnedWrite, `"payload_offset":1048576`, `"payload_offset":"1048576"`},
		{pinnedWrite, `"payload_size":1048576`, `"payload_size":0`},
		{pinnedWrite, `"payload_size":1048576`, `"payload_size":4096`},
		{pinnedWrite, `"payload_size":1048576`, `"payload_size":1048577`},
		{pinnedWrite, `"payload_size":1048576`, `"payload_size":9223372036854771712`},
		{pinnedTags, `"aes-xts-random"`, `"aes-xts-plain64"`},
		{pinnedWrite, `"aes-xts-plain64"`, `"aes-xts-random"`},
		{pinnedTags, `"hmac-sha256"`, `"none"`},
		{pinnedTags, `"tag_size":48`, `"tag_size":0`},
		{pinnedTags, `"interleave_size":16777216`, `"interleave_size":4096`},
		{pinnedTags, `"journal_size":540672`, `"journal_size":0`},
		{pinnedTags, `,"journal_size":540672`, ``},
		{pinnedRead, `"verity":`, `"integrity":{"algorithm":"hmac-sha256","tag_size":48,"interleave_size":16777216,"journal_size":540672},"verity":`},
		{pinnedRead, `"sha256"`, `"sha1"`},
		{pinnedRead, `"data_block_size":4096`, `"data_block_size":512`},
		{pinnedRead, `"hash_block_size":4096`, `"hash_block_size":1024`},
		{pinnedRead, `"hash_offset":2097152`, `"hash_offset":1048576`},
		{pinnedRead, `"hash_offset":2097152`, `"hash_offset":2101248`},
		{pinnedRead, `"hash_size":12288`, `"hash_size":4096`},
		{pinnedRead, `"root_hash":"00`, `"root_hash":"`},
		{pinnedRead, `"root_hash":"001122`, `"root_hash":"zz1122`},
		{pinnedRead, `aabbccddeeff"}`, `AABBCCDDEEFF"}`},
		{pinnedRead, `"payload_size":1048576`, `"payload_size":2097152`},
	} {
		text := strings.Replace(c.from, c.old, c.new, 1)
		if text == c.from {
			t.Fatalf("%s is not in the text", c.old)
		}
		var p Pinned
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("accepted %s for %s", c.new, c.old)
		}
	}
}

func FuzzPinned(f *testing.F) {
	f.Add([]byte(pinnedRead))
	f.Add([]byte(pinnedWrite))
	f.Add([]byte(pinnedTags))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Pinned
		if json.Unmarshal(b, &p) != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		if p.PayloadOffset <= 0 || p.PayloadSize <= 0 || p.End() < p.PayloadOffset+p.PayloadSize {
			t.Errorf("accepted %+v", p)
		}
		again, err := json.Marshal(p)
		var compact bytes.Buffer
		if err != nil || json.Compact(&compact, b) != nil || !bytes.Equal(again, compact.Bytes()) {
			t.Errorf("%s is read as %s", b, again)
		}
	})
}
