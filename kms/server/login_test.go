package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/secret"
)

const goodPassword = "correct horse battery"

func (k *kmsUnderTest) setPassword(name, password string) {
	k.t.Helper()
	if err := k.state().SetPassword(name, secret.New([]byte(password))); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kmsUnderTest) login(name, password string) (int, string) {
	k.t.Helper()
	return k.ask("PUT", "auth/userpass/login/"+name, fmt.Sprintf(`{"password":%q}`, password))
}

func (k *kmsUnderTest) loginOK(name, password string) *auth {
	k.t.Helper()
	code, text := k.login(name, password)
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || code != 200 || a.Auth == nil {
		k.t.Fatalf("login: %d %s", code, text)
	}
	return a.Auth
}

func (k *kmsUnderTest) self(token string) int {
	k.t.Helper()
	code, _ := k.ask("GET", "auth/token/lookup-self", "", "X-Vault-Token", token)
	return code
}

func TestAPasswordBuysATokenThatWrapsUntilItExpires(t *testing.T) {
	k := newKMS(t, Config{LoginTTL: time.Hour, MaxLoginTTL: 90 * time.Minute})
	k.setPassword("alice", goodPassword)
	a := k.loginOK("alice", goodPassword)
	if a.LeaseDuration != 3600 || a.Metadata["username"] != "alice" || !a.Renewable {
		t.Errorf("%+v", a)
	}
	k.wrapOK(a.ClientToken, `{"a":1}`, "60")
	k.clock = k.clock.Add(50 * time.Minute)
	if code, text := k.ask("PUT", "auth/token/renew-self", `{"increment":7200}`, "X-Vault-Token", a.ClientToken); code != 200 || !strings.Contains(text, `"lease_duration":2400`) {
		t.Errorf("renewing in the 50th of 90 minutes: %d %s", code, text)
	}
	k.clock = k.clock.Add(40*time.Minute - time.Second)
	if code := k.self(a.ClientToken); code != 200 {
		t.Errorf("a second before the end: %d", code)
	}
	k.clock = k.clock.Add(time.Second)
	if code := k.self(a.ClientToken); code != 403 {
		t.Errorf("at the end: %d", code)
	}
	if code, _ := k.ask("PUT", "auth/token/renew-self", ``, "X-Vault-Token", a.ClientToken); code != 403 {
		t.Errorf("renewing what has expired: %d", code)
	}
	if err := k.store.purgeLogins(k.clock); err != nil {
		t.Error(err)
	}
	if _, err := k.store.findLogin(hashToken(a.ClientToken), k.clock.Add(-time.Hour)); err != errNoUser {
		t.Errorf("the expired login is still stored: %v", err)
	}
}

func TestALoginEndsWithLogoutAnotherPasswordOrTheUser(t *testing.T) {
	k := newKMS(t, Config{})
	k.setPassword("alice", goodPassword)
	var last string
	for _, end := range []struct {
		name string
		do   func(token string)
	}{
		{"revoke-self", func(token string) {
			if code, _ := k.ask("POST", "auth/token/revoke-self", "", "X-Vault-Token", token); code != 204 {
				t.Errorf("revoke-self: %d", code)
			}
		}},
		{"another password", func(string) { k.setPassword("alice", goodPassword) }},
		{"user removed", func(string) {
			if err := k.state().RemoveUser("alice"); err != nil {
				t.Error(err)
			}
		}},
	} {
		last = k.loginOK("alice", goodPassword).ClientToken
		if code := k.self(last); code != 200 {
			t.Fatalf("%s: before it %d", end.name, code)
		}
		end.do(last)
		if code := k.self(last); code != 403 {
			t.Errorf("%s: the token still works: %d", end.name, code)
		}
	}
	if code, _ := k.login("alice", goodPassword); code != 400 {
		t.Errorf("a removed user logs in: %d", code)
	}
	// Another alice is not the one before.
	k.addUser("alice")
	k.setPassword("alice", goodPassword)
	if code := k.self(last); code != 403 {
		t.Errorf("the token of a removed user works for the next of that name: %d", code)
	}
}

func TestAUsersOwnTokenCanBeRevokedAndTheUserStays(t *testing.T) {
	k := newKMS(t, Config{})
	if code, _ := k.ask("POST", "auth/token/revoke-self", "", "X-Vault-Token", k.user); code != 204 {
		t.Fatalf("revoke-self: %d", code)
	}
	if code := k.self(k.user); code != 403 {
		t.Errorf("it still works: %d", code)
	}
	k.setPassword("alice", goodPassword)
	k.loginOK("alice", goodPassword)
	if all, err := k.state().Users(); err != nil || len(all) != 1 || !all[0].Password {
		t.Errorf("%v, %v", all, err)
	}
}

func TestAWrongNameAndAWrongPasswordAreRefusedAlikeAndNeverLogged(t *testing.T) {
	k := newKMS(t, Config{})
	k.setPassword("alice", goodPassword)
	k.addUser("bob") // has no password
	var texts []string
	for _, c := range [][2]string{{"alice", "CANARY-password"}, {"bob", "CANARY-password"}, {"nobody", "CANARY-password"}, {"CANARY-password", "alice"}, {"..%2Fusers", "x"}} {
		code, text := k.login(c[0], c[1])
		if code != 400 {
			t.Errorf("%s: %d", c[0], code)
		}
		texts = append(texts, text)
	}
	for _, text := range texts {
		if text != texts[0] || !strings.Contains(text, badLogin) {
			t.Errorf("%s", text)
		}
	}
	if strings.Contains(k.log.String(), "CANARY") {
		t.Errorf("the log has what may be a password:\n%s", k.log.String())
	}
	if !strings.Contains(k.log.String(), `"op":"login","result":"invalid username or password","user":"alice"`) {
		t.Errorf("no audit line:\n%s", k.log.String())
	}
	for name, body := range map[string]string{"none": ``, "empty": `{"password":""}`, "two": `{"password":"a","password":"b"}`, "more": `{"password":"a","x":1}`, "long": `{"password":"` + strings.Repeat("x", MaxPassword+1) + `"}`} {
		if code, text := k.ask("POST", "auth/userpass/login/alice", body); code != 400 || !strings.Contains(text, "bad request") {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
}

func TestPasswordsCannotBeGuessedFast(t *testing.T) {
	k := newKMS(t, Config{})
	k.setPassword("alice", goodPassword)
	from := func(address, name, password string) int {
		r := httptest.NewRequest("PUT", "/v1/auth/userpass/login/"+name, strings.NewReader(fmt.Sprintf(`{"password":%q}`, password)))
		r.RemoteAddr = address + ":1234"
		w := httptest.NewRecorder()
		k.Handler().ServeHTTP(w, r)
		return w.Code
	}
	guesses := 0
	for i := range 100 {
		if from(fmt.Sprintf("10.0.0.%d", i), "alice", "guess") == 400 {
			guesses++
		}
	}
	if guesses != loginsOfBurst {
		t.Errorf("%d guesses at one user's password, want %d", guesses, loginsOfBurst)
	}
	if code := from("10.1.0.1", "alice", goodPassword); code != 429 {
		t.Errorf("the right one among them: %d", code)
	}
	k.clock = k.clock.Add(loginsOfEvery)
	if code := from("10.1.0.1", "alice", goodPassword); code != 200 {
		t.Errorf("the right one a while later: %d", code)
	}
	guesses = 0
	for i := range 100 {
		if from("10.2.0.1", fmt.Sprintf("user%d", i), "guess") == 400 {
			guesses++
		}
	}
	if guesses != loginsFromBurst {
		t.Errorf("%d guesses from one address, want %d", guesses, loginsFromBurst)
	}
}

func TestAnAddressWhoseRequestsAreRefusedAgainAndAgainIsHeldBack(t *testing.T) {
	k := newKMS(t, Config{MaxRefused: 20})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	for i := range 20 {
		if code, _ := k.unwrap("ckw.nothing"); code != 400 {
			t.Fatalf("request %d: %d", i, code)
		}
	}
	if code, _ := k.unwrap("ckw.nothing"); code != 429 {
		t.Errorf("the 21st: %d", code)
	}
	if code, _ := k.unwrap(w.Token); code != 429 {
		t.Errorf("a good one of the same address: %d", code)
	}
	k.clock = k.clock.Add(refusedWindow)
	if code, _ := k.unwrap(w.Token); code != 200 {
		t.Errorf("half a minute later: %d", code)
	}
}

func TestWhoLooksUpAgainAndAgainFillsNoLogAndHidesNoUnwrap(t *testing.T) {
	const most = 20
	k := newKMS(t, Config{MaxLookups: most})
	w := k.wrapOK(k.user, `{"a":1}`, "60")
	lines := func(op string) int { return strings.Count(k.log.String(), `"op":"`+op+`","result":"ok"`) }
	lookup := func() int {
		code, _ := k.ask("PUT", "sys/wrapping/lookup", `{"token":"`+w.Token+`"}`)
		return code
	}
	for i := range most {
		if code := lookup(); code != 200 {
			t.Fatalf("lookup %d: %d", i, code)
		}
	}
	for range 2 * most {
		if code := lookup(); code != 429 {
			t.Fatalf("one more: %d", code)
		}
	}
	if n := lines("lookup"); n != most {
		t.Errorf("%d lines of lookups, want %d", n, most)
	}
	if code, _ := k.unwrap(w.Token); code != 200 || lines("unwrap") != 1 {
		t.Errorf("an unwrap then: %d, %d lines", code, lines("unwrap"))
	}
	w = k.wrapOK(k.user, `{"a":1}`, "60")
	k.clock = k.clock.Add(refusedWindow)
	if code := lookup(); code != 200 {
		t.Errorf("half a minute later: %d", code)
	}
}

func TestWhoRenewsALoginAgainAndAgainIsHeldBack(t *testing.T) {
	k := newKMS(t, Config{MaxLookups: 3})
	k.setPassword("alice", goodPassword)
	token := k.loginOK("alice", goodPassword).ClientToken
	for i := range 5 {
		want := 200
		if i >= 3 {
			want = 429
		}
		if code, _ := k.ask("PUT", "auth/token/renew-self", "{}", "X-Vault-Token", token); code != want {
			t.Errorf("renewal %d: %d, want %d", i, code, want)
		}
	}
}

func TestBucketsKeepTheFullestWhenThereAreTooMany(t *testing.T) {
	b, now := newBuckets(3, time.Hour), time.Now()
	for range 3 {
		b.take("guesser", now)
	}
	for i := range 2*maxBuckets + 5 {
		b.take(fmt.Sprint(i), now)
	}
	if len(b.used) > maxBuckets {
		t.Errorf("%d buckets", len(b.used))
	}
	if !b.full("guesser", now) {
		t.Error("who brings many addresses frees another's bucket")
	}
	if b.full("guesser", now.Add(-time.Hour)) != true {
		t.Error("a clock that was put back emptied a bucket")
	}
}

func TestOneCannotReadFromTheStateWhoTheUsersAre(t *testing.T) {
	k := newKMS(t, Config{})
	k.addUser("marguerite")
	k.setPassword("marguerite", goodPassword)
	a := k.loginOK("marguerite", goodPassword)
	w := k.wrapOK(a.ClientToken, `{"a":"CANARY"}`, "1h")
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	search := func(dir string) (found []string) {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			b = append(b, path...)
			for _, s := range []string{"marguerite", "PRIVATE KEY", a.ClientToken, a.Accessor, w.Accessor, "CANARY", "salt"} {
				if bytes.Contains(b, []byte(s)) {
					found = append(found, filepath.Base(path)+" has "+s)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := search(k.dir); len(found) > 0 {
		t.Errorf("in the clear: %v", found)
	}
	// The same without a key shows that the search finds.
	plain := State{Dir: filepath.Join(t.TempDir(), "plain")}
	if _, err := plain.Init([]string{"head"}); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.AddUser("marguerite", DefaultRole); err != nil {
		t.Fatal(err)
	}
	if found := search(plain.Dir); len(found) < 2 {
		t.Errorf("without a state key only %v was found", found)
	}
}

func TestAStateOpensWithItsKeyAlone(t *testing.T) {
	k := newKMS(t, Config{})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	other := secret.New(bytes.Repeat([]byte{7}, StateKeySize))
	for name, key := range map[string]secret.Bytes{"none": {}, "another": other, "short": secret.New([]byte("short"))} {
		if s, err := Open(Config{Dir: k.dir, Key: key}); err == nil {
			s.Close()
			t.Errorf("opened with %s", name)
		}
		if _, err := (State{k.dir, key}).AddUser("bob", DefaultRole); err == nil {
			t.Errorf("added a user with %s", name)
		}
	}
	// Who can write to the directory cannot have the next user stored in the clear.
	b, err := os.ReadFile(filepath.Join(k.dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil || c["key_check"] == nil {
		t.Fatal(err, c)
	}
	delete(c, "key_check")
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, configFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(Config{Dir: k.dir, Key: k.key}); err == nil {
		s.Close()
		t.Error("opened a state from which the mark of encryption was taken")
	}
}

func TestWhatIsStoredDoesNotOpenInAnotherPlace(t *testing.T) {
	k := newKMS(t, Config{})
	k.addUser("bob")
	k.setPassword("alice", goodPassword)
	k.setPassword("bob", "another long password")
	alice, bob := filepath.Join(k.dir, k.users.passwordFile("alice")), filepath.Join(k.dir, k.users.passwordFile("bob"))
	b, err := os.ReadFile(alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := k.login("bob", goodPassword); code != 500 {
		t.Errorf("bob logs in with alice's password: %d", code)
	}
}

func TestABackupBringsBackTheCAAndTheUsersAndNoToken(t *testing.T) {
	k := newKMS(t, Config{})
	k.setPassword("alice", goodPassword)
	waiting := k.wrapOK(k.user, `{"a":"b"}`, "1h")
	var backup bytes.Buffer
	if err := k.state().Backup(&backup); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(backup.Bytes(), []byte("PRIVATE KEY")) {
		t.Error("the CA's key is in the backup in the clear")
	}
	if code, _ := k.unwrap(waiting.Token); code != 200 {
		t.Fatal("unwrap failed")
	}
	again := State{filepath.Join(t.TempDir(), "again"), k.key}
	if err := (State{again.Dir, secret.New(bytes.Repeat([]byte{7}, StateKeySize))}).Restore(bytes.NewReader(backup.Bytes())); err == nil {
		t.Error("restored with another key")
	}
	if err := again.Restore(bytes.NewReader(backup.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := again.Restore(bytes.NewReader(backup.Bytes())); err == nil {
		t.Error("restored over a KMS")
	}
	s, err := Open(Config{Dir: again.Dir, Key: again.Key})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.issuer.ca.Equal(k.issuer.ca) {
		t.Error("another CA")
	}
	k2 := &kmsUnderTest{Server: s, t: t, dir: again.Dir, key: again.Key}
	if code, _ := k2.unwrap(waiting.Token); code != 400 {
		t.Errorf("a token that was redeemed after the backup: %d", code)
	}
	k2.wrapOK(k.user, `{"a":1}`, "60")
	k2.loginOK("alice", goodPassword)
}

func TestOnlyABackupIsRestored(t *testing.T) {
	k := newKMS(t, Config{})
	var good bytes.Buffer
	if err := k.state().Backup(&good); err != nil {
		t.Fatal(err)
	}
	b := good.Bytes()
	for name, bad := range map[string][]byte{
		"empty":   nil,
		"cut off": b[:len(b)/2],
		"path":    bytes.Replace(b, []byte("ca.pem"), []byte("../pem"), 1),
		"noise":   bytes.Repeat([]byte("x"), 5000),
	} {
		dir := filepath.Join(t.TempDir(), "new")
		if err := (State{dir, k.key}).Restore(bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: restored", name)
		}
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s: left something", name)
		}
	}
}
