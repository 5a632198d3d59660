package kms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"cloister/secret"
)

// The wrapped payload is {"job_key":"<44 characters of padded base64>"} and
// nothing else.
const (
	payloadHead = `{"job_key":"`
	payloadTail = `"}`
	payloadSize = len(payloadHead) + 44 + len(payloadTail)
)

func encodePayload(jobKey secret.Bytes) (secret.Bytes, error) {
	if jobKey.Len() != JobKeySize {
		return secret.Bytes{}, fmt.Errorf("job key has %d bytes, want %d", jobKey.Len(), JobKeySize)
	}
	e := jobKey.Encode()
	defer e.Wipe()
	p := secret.Alloc(payloadSize)
	b := append(p.Reveal()[:0], payloadHead...)
	b = append(b, e.Reveal()...)
	_ = append(b, payloadTail...)
	return p, nil
}

// decodePayload reads the answer of an unwrap and wipes it. The servers
// re-encode the payload, so white space may differ; nothing else may.
func decodePayload(answer []byte) (secret.Bytes, error) {
	defer clear(answer)
	var a struct {
		Data json.RawMessage `json:"data"`
	}
	err := decode(answer, &a)
	defer func() { clear(a.Data) }()
	if err != nil {
		return secret.Bytes{}, err
	}
	var compact bytes.Buffer
	compact.Grow(len(a.Data))
	if len(a.Data) == 0 || json.Compact(&compact, a.Data) != nil {
		return secret.Bytes{}, errors.New("no data in it")
	}
	b := compact.Bytes()
	defer clear(b)
	if len(b) != payloadSize || !bytes.HasPrefix(b, []byte(payloadHead)) || !bytes.HasSuffix(b, []byte(payloadTail)) {
		return secret.Bytes{}, errors.New("what was wrapped is not one job key")
	}
	key, err := secret.Decode(b[len(payloadHead) : payloadSize-len(payloadTail)])
	if err != nil {
		return secret.Bytes{}, errors.New("what was wrapped is not one job key")
	}
	if key.Len() != JobKeySize {
		key.Wipe()
		return secret.Bytes{}, errors.New("what was wrapped is not one job key")
	}
	return key, nil
}
