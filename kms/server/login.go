package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// The rest of what `bao login -method=userpass` and `bao token` ask for.

// badLogin is Vault's text for a wrong name as for a wrong password.
const badLogin = "invalid username or password"

// hashesAtOnce bounds the memory of logins: 64 MiB each.
const hashesAtOnce = 2

// auth is Vault's answer to a login (api.SecretAuth).
type auth struct {
	ClientToken   string            `json:"client_token"`
	Accessor      string            `json:"accessor"`
	Policies      []string          `json:"policies"`
	TokenPolicies []string          `json:"token_policies"`
	Metadata      map[string]string `json:"metadata"`
	LeaseDuration int64             `json:"lease_duration"`
	Renewable     bool              `json:"renewable"`
	EntityID      string            `json:"entity_id"`
	TokenType     string            `json:"token_type"`
	Orphan        bool              `json:"orphan"`
	NumUses       int               `json:"num_uses"`
}

// auth names the user's role as the policy, which is what Vault calls it.
func (l login) auth(token, role string, now time.Time) *auth {
	return &auth{ClientToken: token, Accessor: l.Accessor, Policies: []string{role}, TokenPolicies: []string{role},
		Metadata: map[string]string{"username": l.User}, LeaseDuration: l.Expires - now.Unix(), Renewable: true, TokenType: "service", Orphan: true}
}

// login exchanges a password for a token. Who may try is decided before the
// hash, which is made to be slow.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	name, now := r.PathValue("name"), s.cfg.now()
	if !userName.MatchString(name) {
		name = "" // it may be a password, typed at the wrong prompt
	}
	body, err := io.ReadAll(r.Body)
	defer clear(body)
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request body is not readable or too large")
		return
	}
	given, err := parsePassword(body)
	if err != nil {
		s.refuse(w, r, "login", name, "", err)
		return
	}
	defer clear(given)
	if !s.loginsFrom.take(originOf(r.RemoteAddr), now) || !s.loginsOf.take(name, now) {
		fail(w, http.StatusTooManyRequests, "too many logins: wait a minute")
		s.audit(r, "login", name, "", "too many logins")
		return
	}
	p, err := s.users.readPassword(name)
	unknown := errors.Is(err, errNoUser)
	if err != nil && !unknown {
		s.refuse(w, r, "login", name, "", err)
		return
	}
	select {
	case s.hashing <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	// Somebody unknown costs as much time as a wrong password.
	right := p.matches(given) && !unknown
	<-s.hashing
	if !right {
		fail(w, http.StatusBadRequest, badLogin)
		s.audit(r, "login", name, "", badLogin)
		return
	}
	u, err := s.users.named(name)
	if err != nil {
		s.refuse(w, r, "login", name, "", err)
		return
	}
	token, l, err := s.store.logIn(name, p, now, s.cfg.LoginTTL)
	if err != nil {
		s.refuse(w, r, "login", name, "", err)
		return
	}
	s.audit(r, "login", name, l.Accessor, "ok")
	reply(w, answer{Auth: l.auth(token, u.role(), now)})
}

// bearer is whose token a request came with.
type bearer struct {
	user
	hash  tokenHash
	token string
	login *login // nil for the token that `user add` made
}

// find says who holds a token. A login ends with its password and its user.
func (s *Server) find(token string) (bearer, error) {
	b := bearer{hash: hashToken(token), token: token}
	u, err := s.users.find(b.hash)
	if err == nil || !errors.Is(err, errNoUser) {
		b.user = u
		return b, err
	}
	l, err := s.store.findLogin(b.hash, s.cfg.now())
	if err != nil {
		return bearer{}, err
	}
	p, err := s.users.readPassword(l.User)
	if err != nil {
		return bearer{}, err
	}
	if p.ID != l.Password {
		return bearer{}, errNoUser
	}
	if b.user, err = s.users.named(l.User); err != nil {
		return bearer{}, err
	}
	b.Created, b.login = time.Unix(l.Created, 0), &l
	return b, nil
}

func (s *Server) lookupSelf(w http.ResponseWriter, r *http.Request) {
	u, ok := s.authenticate(w, r, "lookup-self")
	if !ok {
		return
	}
	// `bao login` wants the token back as "id".
	about := map[string]any{
		"id": u.token, "display_name": "token-" + u.Name, "policies": []string{u.role()}, "path": "auth/token/create",
		"accessor": "", "creation_time": u.Created.Unix(), "creation_ttl": 0, "ttl": 0, "num_uses": 0, "orphan": true,
		"renewable": false, "type": "service", "expire_time": nil, "entity_id": "", "explicit_max_ttl": 0, "meta": nil,
	}
	if l := u.login; l != nil {
		about["display_name"], about["path"], about["meta"] = "userpass-"+l.User, "auth/userpass/login/"+l.User, map[string]string{"username": l.User}
		about["accessor"], about["renewable"], about["creation_ttl"] = l.Accessor, true, int64(s.cfg.LoginTTL/time.Second)
		about["ttl"], about["expire_time"] = l.Expires-s.cfg.now().Unix(), rfc3339(l.Expires)
	}
	data, err := json.Marshal(about)
	if err != nil {
		s.refuse(w, r, "lookup-self", u.Name, "", err)
		return
	}
	reply(w, answer{Data: data})
}

// renewSelf ignores the increment that is asked for, as Vault may: a login
// lives for LoginTTL from each renewal on.
func (s *Server) renewSelf(w http.ResponseWriter, r *http.Request) {
	u, ok := s.authenticate(w, r, "renew-self")
	if !ok {
		return
	}
	if u.login == nil {
		s.refuse(w, r, "renew-self", u.Name, "", bad("lease is not renewable"))
		return
	}
	now := s.cfg.now()
	if !s.lookups.take(originOf(r.RemoteAddr), now) {
		s.refuse(w, r, "renew-self", u.Name, u.login.Accessor, errLookups)
		return
	}
	l, err := s.store.renew(u.hash, now, s.cfg.LoginTTL, s.cfg.MaxLoginTTL)
	if err != nil {
		s.refuse(w, r, "renew-self", u.Name, u.login.Accessor, err)
		return
	}
	s.audit(r, "renew-self", u.Name, l.Accessor, "ok")
	reply(w, answer{Auth: l.auth(u.token, u.role(), now)})
}

// revokeSelf ends the token that it is asked with, of either kind.
func (s *Server) revokeSelf(w http.ResponseWriter, r *http.Request) {
	u, ok := s.authenticate(w, r, "revoke-self")
	if !ok {
		return
	}
	accessor := ""
	var err error
	if u.login != nil {
		accessor, err = u.login.Accessor, s.store.logOut(u.hash)
	} else {
		err = s.users.retire(u.hash)
	}
	if err != nil {
		s.refuse(w, r, "revoke-self", u.Name, accessor, err)
		return
	}
	s.audit(r, "revoke-self", u.Name, accessor, "ok")
	w.WriteHeader(http.StatusNoContent)
}
