package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// What auditors and operators ask, as `bao list auth/token/accessors` and
// `bao token lookup -accessor` do. An accessor redeems nothing.

// authorize finds the user of a request, whose role has to allow it. A role
// that is not there allows nothing.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, op, what string) (bearer, Role, bool) {
	u, ok := s.authenticate(w, r, op)
	if !ok {
		return bearer{}, Role{}, false
	}
	role, err := s.users.role(u.role())
	if err == nil && !role.may(what) {
		err = errMayNot
	}
	if err != nil {
		s.refuse(w, r, op, u.Name, "", err)
		return bearer{}, Role{}, false
	}
	return u, role, true
}

// lower is the server's limit or the role's, if it has one that is lower.
func lower[T cmp.Ordered](servers, roles T) T {
	var none T
	if roles == none {
		return servers
	}
	return min(servers, roles)
}

// maxAccessors bounds one answer, to some 350 KB: who asks for a list whole, as
// Vault's clients do, is refused beyond and not given a part of it unawares.
const maxAccessors = 10_000

var tooManyAccessors = fmt.Sprintf("there are more than %d unused tokens: ask for pages of them, as bao list -limit=1000 -after=ACCESSOR does", maxAccessors)

// parsePage reads OpenBao's parameters of a list, which are optional: at most
// limit entries, those after one that need not exist.
func parsePage(q url.Values) (after string, limit int, err error) {
	after = q.Get("after")
	if len(after) > maxTokenIn {
		return "", 0, bad("after is no accessor")
	}
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit > maxAccessors {
			return "", 0, bad(fmt.Sprintf("limit is not a number up to %d", maxAccessors))
		}
		limit = max(limit, 0) // OpenBao's clients send -1 for none
	}
	return after, limit, nil
}

func (s *Server) listAccessors(w http.ResponseWriter, r *http.Request) {
	u, _, ok := s.authorize(w, r, "list", MayList)
	if !ok {
		return
	}
	if r.Method == http.MethodGet && r.URL.Query().Get("list") != "true" {
		fail(w, http.StatusMethodNotAllowed, "unsupported operation")
		return
	}
	after, limit, err := parsePage(r.URL.Query())
	if err != nil {
		s.refuse(w, r, "list", u.Name, "", err)
		return
	}
	keys, err := s.store.accessors(s.cfg.now(), after, cmp.Or(limit, maxAccessors+1))
	if err == nil && len(keys) > maxAccessors {
		err = bad(tooManyAccessors)
	}
	if err != nil {
		s.refuse(w, r, "list", u.Name, "", err)
		return
	}
	data, _ := json.Marshal(map[string]any{"keys": keys}) // cannot fail: strings
	s.audit(r, "list", u.Name, "", "ok")
	reply(w, answer{Data: data})
}

func (s *Server) lookupAccessor(w http.ResponseWriter, r *http.Request) {
	u, _, ok := s.authorize(w, r, "lookup-accessor", MayList)
	if !ok {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request body is not readable or too large")
		return
	}
	accessor, err := parseAccessor(body)
	if err != nil {
		s.refuse(w, r, "lookup-accessor", u.Name, "", err)
		return
	}
	rec, err := s.store.byAccessor(accessor, s.cfg.now())
	if errors.Is(err, errGone) || errors.Is(err, errExpired) {
		fail(w, http.StatusForbidden, "invalid accessor")
		s.audit(r, "lookup-accessor", u.Name, "", "invalid accessor")
		return
	}
	if err != nil {
		s.refuse(w, r, "lookup-accessor", u.Name, "", err)
		return
	}
	data, _ := json.Marshal(map[string]any{ // cannot fail: strings and numbers
		"accessor": rec.Accessor, "creation_time": rec.Created, "creation_ttl": rec.TTL, "display_name": rec.User,
		"expire_time": rfc3339(rec.Created + rec.TTL), "id": "", "num_uses": 1, "path": wrapPath,
		"policies": []string{"response-wrapping"}, "ttl": rec.Created + rec.TTL - s.cfg.now().Unix(), "type": "service",
	})
	s.audit(r, "lookup-accessor", u.Name, rec.Accessor, "ok")
	reply(w, answer{Data: data})
}
