package server

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"cloister/secret"
)

// each of the calls begins at the same moment; all have returned at the end.
func atOnce(calls ...func()) {
	var (
		wg    sync.WaitGroup
		start = make(chan struct{})
	)
	for _, do := range calls {
		wg.Go(func() {
			<-start
			do()
		})
	}
	close(start)
	wg.Wait()
}

func TestARemovedUserStaysRemovedWhateverElseChangesThem(t *testing.T) {
	k := newKMS(t, Config{})
	for range 30 {
		tok := k.addUser("bob")
		atOnce(
			func() {
				if err := k.state().RemoveUser("bob"); err != nil {
					t.Errorf("removing: %v", err)
				}
			},
			func() { _ = k.state().SetUserRole("bob", "operator") },
			func() { _ = k.state().SetUserRole("bob", "auditor") },
			func() { k.ask("PUT", "auth/token/revoke-self", "", "X-Vault-Token", tok) },
		)
		if code := k.self(tok); code != 403 {
			t.Fatalf("the removed user's token: %d", code)
		}
		if known, err := k.users.has("bob"); known || err != nil {
			t.Fatalf("the removed user is there: %v", err)
		}
	}
}

func TestATokenThatItsUserGaveBackStaysWorthlessAndTheRoleThatWasGivenCounts(t *testing.T) {
	k := newKMS(t, Config{})
	for range 30 {
		tok := k.addUser("bob")
		code := 0
		atOnce(
			func() { code, _ = k.ask("PUT", "auth/token/revoke-self", "", "X-Vault-Token", tok) },
			func() {
				if err := k.state().SetUserRole("bob", "auditor"); err != nil {
					t.Errorf("giving a role: %v", err)
				}
			},
		)
		if code != 204 || k.self(tok) != 403 {
			t.Fatalf("revoking oneself answered %d, the token then %d", code, k.self(tok))
		}
		files, err := k.users.filesOf("bob")
		if err != nil || len(files) != 1 {
			t.Fatalf("%d files of the user, %v", len(files), err)
		}
		if u, err := k.users.readUser(files[0]); err != nil || u.Role != "auditor" {
			t.Fatalf("the user's role is %q, %v", u.Role, err)
		}
		if err := k.state().RemoveUser("bob"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoCommandsAddAUserOnceAndAPasswordDoesNotOutliveItsUser(t *testing.T) {
	k := newKMS(t, Config{})
	for range 20 {
		var errs [2]error
		atOnce(
			func() { _, errs[0] = k.state().AddUser("bob", DefaultRole) },
			func() { _, errs[1] = k.state().AddUser("bob", DefaultRole) },
		)
		if !slices.Contains(errs[:], nil) || !errors.Is(errors.Join(errs[:]...), ErrUserExists) {
			t.Fatalf("two at once: %v", errs)
		}
		atOnce(
			func() { _ = k.state().SetPassword("bob", secret.New([]byte(goodPassword))) },
			func() {
				if err := k.state().RemoveUser("bob"); err != nil {
					t.Error(err)
				}
			},
		)
		if _, err := k.users.readPassword("bob"); !errors.Is(err, errNoUser) {
			t.Fatalf("the next user of that name has the password: %v", err)
		}
	}
}

// kill -9 between the two files of a token that is given back.
func TestAUserOfWhomTwoFilesWereLeftIsChangedAndRemovedWhole(t *testing.T) {
	k := newKMS(t, Config{})
	tok := k.addUser("bob")
	b, err := k.users.read(userFile(hashToken(tok)), maxUserFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.users.write(userFile(hashToken("left")), b); err != nil {
		t.Fatal(err)
	}
	if err := k.state().SetUserRole("bob", "auditor"); err != nil {
		t.Fatal(err)
	}
	if code, text := k.ask("PUT", "sys/wrapping/wrap", `{"a":"b"}`, "X-Vault-Token", tok, "X-Vault-Wrap-TTL", "60"); code != 403 {
		t.Errorf("with the old role: %d %s", code, text)
	}
	if err := k.state().RemoveUser("bob"); err != nil {
		t.Fatal(err)
	}
	if code := k.self(tok); code != 403 {
		t.Errorf("removed, but: %d", code)
	}
}

func TestACommandWaitsForAnotherButNotForEver(t *testing.T) {
	k := newKMS(t, Config{})
	held := make(chan error)
	err := k.users.alone(func() error {
		go func() {
			_, err := k.state().AddUser("bob", DefaultRole)
			held <- err
		}()
		return <-held
	})
	if err == nil {
		t.Error("a user was added beside another command")
	}
	k.addUser("bob")
}
