package kms

import (
	"bytes"
	"testing"

	"cloister/secret"
)

// A test through the environment would not do: net/http never uses a proxy
// for the loopback address.
func TestTheTransportHasNoProxy(t *testing.T) {
	if (&Client{}).newTransport().Proxy != nil {
		t.Error("the transport asks for a proxy")
	}
}

func FuzzDecodePayload(f *testing.F) {
	good, err := encodePayload(secret.New(bytes.Repeat([]byte{7}, JobKeySize)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"request_id":"x","data":` + string(good.Reveal()) + `,"warnings":null}`))
	f.Add([]byte(`{"data":{"job_key":""}}`))
	f.Add([]byte(`{"data":null}`))
	f.Add([]byte(`{"DATA": {"job_key" : "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := decodePayload(bytes.Clone(b))
		if err != nil {
			return
		}
		// Whatever was accepted holds the key in its one encoding.
		p, err := encodePayload(key)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, p.Reveal()[len(payloadHead):payloadSize-len(payloadTail)]) {
			t.Fatalf("accepted %q", b)
		}
	})
}
