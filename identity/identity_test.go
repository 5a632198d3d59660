package identity

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func fresh(t *testing.T) *Identity {
	t.Helper()
	i, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// opens says whether a list opens what is sealed to a recipient.
func opens(t *testing.T, recipient string, list ...*Identity) bool {
	t.Helper()
	r, err := age.ParseHybridRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var ids []age.Identity
	for _, i := range list {
		ids = append(ids, i)
	}
	out, err := age.Decrypt(&sealed, ids...)
	if err != nil {
		return false
	}
	_, err = io.ReadAll(out)
	return err == nil
}

func TestAfterARotationBothCountUntilTheStatedTimeAndThenTheNewOneAlone(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	clock := now
	old := fresh(t)
	list, err := Rotate([]*Identity{old}, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	// As it lies in the file.
	if list, err = Parse(Encode(list).Reveal()); err != nil || len(list) != 2 {
		t.Fatal(len(list), err)
	}
	for _, i := range list {
		i.now = func() time.Time { return clock }
	}
	if list[0].Recipient() == old.Recipient() || !list[0].Until.IsZero() || !list[1].Until.Equal(now.Add(time.Hour)) {
		t.Errorf("%v, %v", list[0].Until, list[1].Until)
	}
	for _, c := range []struct {
		at       time.Duration
		old, new bool
	}{{0, true, true}, {time.Hour - time.Second, true, true}, {time.Hour, false, true}, {1000 * time.Hour, false, true}} {
		clock = now.Add(c.at)
		if got := opens(t, old.Recipient(), list...); got != c.old {
			t.Errorf("after %v the old one opens: %v", c.at, got)
		}
		if got := opens(t, list[0].Recipient(), list...); got != c.new {
			t.Errorf("after %v the new one opens: %v", c.at, got)
		}
	}
	// The next rotation lengthens no life and drops what is over.
	again, err := Rotate(list, now.Add(time.Minute), now.Add(48*time.Hour))
	if err != nil || len(again) != 3 || !again[2].Until.Equal(now.Add(time.Hour)) || !again[1].Until.Equal(now.Add(48*time.Hour)) {
		t.Errorf("%d, %v", len(again), err)
	}
	if again, err = Rotate(list, now.Add(2*time.Hour), now.Add(3*time.Hour)); err != nil || len(again) != 2 {
		t.Errorf("%d, %v", len(again), err)
	}
}

func TestAgeReadsTheFileToo(t *testing.T) {
	list, err := Rotate([]*Identity{fresh(t)}, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := age.ParseIdentities(bytes.NewReader(Encode(list).Reveal())); err != nil || len(ids) != 2 {
		t.Errorf("%d, %v", len(ids), err)
	}
}

func TestAnythingButAnExactIdentityFileIsRefusedWithoutQuotingIt(t *testing.T) {
	key := fresh(t).key.String()
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const until = "# until: 2026-12-31T00:00:00Z\n"
	good := "# a comment\n\n" + key + "\n" + until + fresh(t).key.String() + "\n"
	if list, err := Parse([]byte(good)); err != nil || len(list) != 2 || !list[0].Until.IsZero() || list[1].Until.IsZero() {
		t.Fatalf("%v, %v", list, err)
	}
	for name, text := range map[string]string{
		"empty":            "",
		"comments alone":   "# nothing\n",
		"classic":          classic.String() + "\n",
		"classic beside":   key + "\n" + classic.String() + "\n",
		"damaged":          key[:len(key)-1] + "q\n",
		"small letters":    strings.ToLower(key) + "\n",
		"CRLF":             key + "\r\n",
		"space before":     " " + key + "\n",
		"time without day": "# until: 12:00\n" + key + "\n",
		"day alone":        "# until: 2026-12-31\n" + key + "\n",
		"two times":        until + until + key + "\n",
		"time for nothing": key + "\n" + until,
		"Until":            "# Until: 2026-12-31T00:00:00Z\n" + key + "\n",
		"no space":         "#until: 2026-12-31T00:00:00Z\n" + key + "\n",
		"no colon":         "# until 2026-12-31T00:00:00Z\n" + key + "\n",
		"recipient":        fresh(t).Recipient() + "\n",
		"many":             strings.Repeat(key+"\n", maxIdentities+1),
		"large":            key + "\n#" + strings.Repeat("x", MaxSize),
	} {
		list, err := Parse([]byte(text))
		if err == nil {
			t.Errorf("%s: accepted %d", name, len(list))
			continue
		}
		if strings.Contains(err.Error(), key[30:50]) || strings.Contains(err.Error(), classic.String()[20:40]) {
			t.Errorf("%s: the error quotes a key", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	i, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Encode([]*Identity{i}).Reveal())
	f.Add([]byte("# until: 2026-12-31T00:00:00Z\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(Encode(list).Reveal())
		if err != nil || len(again) != len(list) {
			t.Fatalf("what was read is not read again: %v", err)
		}
		for n := range list {
			if list[n].Recipient() != again[n].Recipient() || !list[n].Until.Truncate(time.Second).Equal(again[n].Until) {
				t.Fatalf("identity %d changed", n)
			}
		}
	})
}
