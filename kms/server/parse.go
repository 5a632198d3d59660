package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// errRequest marks a request that breaks the API; its text goes to the client
// and so never quotes the request.
var errRequest = errors.New("bad request")

func bad(text string) error { return fmt.Errorf("%w: %s", errRequest, text) }

// headerToken is X-Vault-Token, or the bearer token that Vault takes as well.
func headerToken(r *http.Request) string {
	if t := r.Header.Get("X-Vault-Token"); t != "" {
		return t
	}
	t, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return t
}

// parseTTL reads X-Vault-Wrap-TTL: a number of seconds, or a Go duration of
// whole seconds.
func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, bad("endpoint requires response wrapping to be used: set X-Vault-Wrap-TTL")
	}
	if len(s) > 32 {
		return 0, bad("X-Vault-Wrap-TTL is not a duration")
	}
	if n, err := strconv.ParseUint(s, 10, 63); err == nil {
		if n == 0 || n > uint64(math.MaxInt64/time.Second) {
			return 0, bad("X-Vault-Wrap-TTL is out of range")
		}
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, bad("X-Vault-Wrap-TTL is not a duration")
	}
	if d < time.Second || d%time.Second != 0 {
		return 0, bad("X-Vault-Wrap-TTL is not a whole number of seconds from 1 up")
	}
	return d, nil
}

// parseWrap takes any JSON object with distinct members and returns it
// compacted. Vault wraps the same; an empty object is refused by both.
func parseWrap(body []byte) ([]byte, error) {
	members, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return nil, bad("nothing to wrap")
	}
	var out bytes.Buffer
	out.Grow(len(body))
	if err := json.Compact(&out, body); err != nil {
		return nil, bad("body is not JSON")
	}
	return out.Bytes(), nil
}

// parseToken takes {"token":"…"}, or no body (or null, as the OpenBao client
// sends) and the header.
func parseToken(body []byte, header string) (string, error) {
	token := header
	if b := bytes.TrimSpace(body); len(b) > 0 && string(b) != "null" {
		v, found, err := parseOne(b, "token")
		if err != nil {
			return "", err
		}
		if found {
			token = v
		}
	}
	if token == "" {
		return "", bad(`missing "token" value in input`)
	}
	if len(token) > maxTokenIn {
		// Too long to be one of ours: the answer is the same as for any
		// other token that is not there.
		return "", errGone
	}
	return token, nil
}

// parsePassword takes {"password":"…"}.
func parsePassword(body []byte) ([]byte, error) {
	v, found, err := parseOne(body, "password")
	if err != nil {
		return nil, err
	}
	if !found || v == "" {
		return nil, bad("missing password")
	}
	if len(v) > MaxPassword {
		return nil, bad("password is too long")
	}
	return []byte(v), nil
}

// parseAccessor takes {"accessor":"…"}.
func parseAccessor(body []byte) (string, error) {
	v, found, err := parseOne(body, "accessor")
	if err != nil {
		return "", err
	}
	if !found || v == "" {
		return "", bad("missing accessor")
	}
	return v, nil
}

// parseOne reads an object that may hold the one string member and no other.
func parseOne(body []byte, name string) (value string, found bool, err error) {
	members, err := parseObject(body)
	if err != nil {
		return "", false, err
	}
	for k, raw := range members {
		if k != name {
			return "", false, bad("unknown member in the body")
		}
		if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &value) != nil {
			return "", false, bad(name + " is not a string")
		}
		found = true
	}
	return value, found, nil
}

// parseObject reads one JSON object, refusing a member that is there twice:
// parsers differ on which of the two counts.
func parseObject(body []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, bad("body is not a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		k, ok := t.(string)
		if err != nil || !ok {
			return nil, bad("body is not a JSON object")
		}
		if _, twice := members[k]; twice {
			return nil, bad("a member is there twice")
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, bad("body is not a JSON object")
		}
		members[k] = v
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return nil, bad("body is not a JSON object")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, bad("something after the JSON object")
	}
	return members, nil
}
