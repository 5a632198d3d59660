package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// tokensOf puts n unused tokens into the database at once.
func (k *kmsUnderTest) tokensOf(name string, n int, ttl time.Duration) []string {
	k.t.Helper()
	var all []string
	err := k.store.db.Update(func(tx *bolt.Tx) error {
		for i := range n {
			h := hashToken(fmt.Sprint(name, i))
			rec := record{User: name, Accessor: fmt.Sprintf("%s-%d", name, i), Created: k.clock.Unix(), TTL: int64(ttl / time.Second), Sealed: []byte{1}}
			all = append(all, rec.Accessor)
			if err := k.store.put(tx, h, rec); err != nil {
				return err
			}
			if err := tx.Bucket(bucketAccessors).Put(k.store.key.name(rec.Accessor), h[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return all
}

// page asks for a list with a query.
func (k *kmsUnderTest) page(token, query string) (int, []string, string) {
	k.t.Helper()
	code, text := k.ask("GET", "auth/token/accessors?list=true"+query, "", "X-Vault-Token", token)
	var a struct{ Data struct{ Keys []string } }
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		k.t.Fatal(err)
	}
	return code, a.Data.Keys, text
}

func TestAListComesInPagesAndWholeOnlyUpToABound(t *testing.T) {
	k := newKMS(t, Config{})
	auditor := k.userOf("ann", "auditor")
	want := k.tokensOf("alice", maxAccessors, time.Hour)
	k.tokensOf("gone", 50, time.Second)
	k.clock = k.clock.Add(time.Minute)

	code, whole, text := k.page(auditor, "")
	if code != 200 || len(whole) != maxAccessors || len(text) > 1<<20 {
		t.Fatalf("as many as there may be: %d, %d of %d in %d bytes", code, len(whole), maxAccessors, len(text))
	}
	want = append(want, k.tokensOf("bob", 1, time.Hour)...)
	code, keys, text := k.page(auditor, "")
	if code != 400 || keys != nil || !strings.Contains(text, "more than 10000 unused tokens: ask for pages") {
		t.Errorf("one more: %d %.200s", code, text)
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		code, keys, text := k.page(auditor, "&limit=3000&after="+after)
		if code != 200 || len(keys) > 3000 {
			t.Fatalf("a page: %d, %d of them, %.200s", code, len(keys), text)
		}
		if len(keys) == 0 {
			break
		}
		got = append(got, keys...)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the pages have %d accessors, want %d, each once", len(got), len(want))
	}
	for _, query := range []string{"&limit=x", "&limit=10001", "&limit=1.5", "&after=" + strings.Repeat("a", maxTokenIn+1)} {
		if code, _, text := k.page(auditor, query); code != 400 || strings.Contains(text, "aaa") {
			t.Errorf("%.20s: %d %.200s", query, code, text)
		}
	}
	// One that was redeemed meanwhile is still a place to go on from.
	if code, keys, _ := k.page(auditor, "&limit=5&after=no-such-accessor"); code != 200 || len(keys) != 5 {
		t.Errorf("after one that is not there: %d, %v", code, keys)
	}
}

func FuzzPage(f *testing.F) {
	f.Add("list=true&limit=-1&after=")
	f.Add("limit=10001")
	f.Add("after=%00&limit=007")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if after, limit, err := parsePage(q); err == nil && (limit < 0 || limit > maxAccessors || len(after) > maxTokenIn) {
			t.Errorf("%q: %q, %d", query, after, limit)
		}
	})
}
