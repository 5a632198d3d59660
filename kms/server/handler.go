package server

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Texts of Vault's error bodies that clients tell answers apart by
// (vault/wrapping.go, vault/logical_system.go); tokenExpired, sent beside
// tokenGone, tooManyTokens, tooFast and tooManyLookups are additions of ours.
const (
	tokenGone        = "wrapping token is not valid or does not exist"
	tokenExpired     = "wrapping token has expired"
	tooManyTokens    = "user has too many unused wrapping tokens"
	tooFast          = "user has wrapped too many tokens in the last minute"
	tooManyLookups   = "too many tokens were looked up or renewed: wait a minute"
	permissionDenied = "permission denied"
)

// Handler is the HTTP API without TLS, for Serve and for tests.
func (s *Server) Handler() http.Handler {
	m := http.NewServeMux()
	for _, method := range []string{http.MethodPut, http.MethodPost} {
		m.HandleFunc(method+" /v1/sys/wrapping/wrap", s.wrap)
		m.HandleFunc(method+" /v1/sys/wrapping/lookup", s.lookup)
		m.HandleFunc(method+" /v1/sys/wrapping/unwrap", s.unwrap)
		m.HandleFunc(method+" /v1/auth/token/revoke-accessor", s.revokeAccessor)
		m.HandleFunc(method+" /v1/auth/token/lookup-accessor", s.lookupAccessor)
		m.HandleFunc(method+" /v1/auth/token/renew-self", s.renewSelf)
		m.HandleFunc(method+" /v1/auth/token/revoke-self", s.revokeSelf)
		m.HandleFunc(method+" /v1/auth/userpass/login/{name}", s.login)
	}
	// Vault's clients ask for a list by either.
	m.HandleFunc("LIST /v1/auth/token/accessors", s.listAccessors)
	m.HandleFunc("GET /v1/auth/token/accessors", s.listAccessors)
	m.HandleFunc("GET /v1/auth/token/lookup-self", s.lookupSelf)
	m.HandleFunc("GET /v1/sys/health", s.health)
	m.HandleFunc("GET /v1/sys/seal-status", s.sealStatus)
	m.HandleFunc("GET /v1/sys/leader", s.leader)
	m.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		from := originOf(r.RemoteAddr)
		if s.refused.full(from, s.cfg.now()) {
			fail(w, http.StatusTooManyRequests, "too many requests were refused: wait a minute")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		watched := &watchedWriter{ResponseWriter: w}
		m.ServeHTTP(watched, r)
		if watched.refused {
			s.refused.take(from, s.cfg.now())
		}
	})
}

// watchedWriter notices an answer that refuses.
type watchedWriter struct {
	http.ResponseWriter
	refused bool
}

func (w *watchedWriter) WriteHeader(status int) {
	w.refused = status >= 400 && status < 500
	w.ResponseWriter.WriteHeader(status)
}

// host is an address without its port.
func host(remote string) string {
	h, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return h
}

// answer is Vault's envelope (api.Secret).
type answer struct {
	RequestID     string          `json:"request_id"`
	LeaseID       string          `json:"lease_id"`
	Renewable     bool            `json:"renewable"`
	LeaseDuration int             `json:"lease_duration"`
	Data          json.RawMessage `json:"data"`
	WrapInfo      *wrapInfo       `json:"wrap_info"`
	Warnings      []string        `json:"warnings"`
	Auth          *auth           `json:"auth"`
}

type wrapInfo struct {
	Token           string `json:"token"`
	Accessor        string `json:"accessor"`
	TTL             int64  `json:"ttl"`
	CreationTime    string `json:"creation_time"`
	CreationPath    string `json:"creation_path"`
	WrappedAccessor string `json:"wrapped_accessor,omitempty"`
}

func reply(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, "encoding the answer")
		return
	}
	w.Write(append(b, '\n'))
	clear(b)
}

func fail(w http.ResponseWriter, status int, texts ...string) {
	if texts == nil {
		texts = []string{}
	}
	b, _ := json.Marshal(struct {
		Errors []string `json:"errors"`
	}{texts}) // cannot fail: strings
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// audit writes one line for each operation on a token. Accessors and user
// names are not secret; tokens and payloads never come here.
func (s *Server) audit(r *http.Request, op, user, accessor, result string) {
	s.log.Info("audit", zap.String("op", op), zap.String("result", result), zap.String("user", user),
		zap.String("accessor", accessor), zap.String("from", host(r.RemoteAddr)))
}

// refuse answers a failed operation on a token and writes it down.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, op, user, accessor string, err error) {
	switch {
	case errors.Is(err, errGone):
		fail(w, http.StatusBadRequest, tokenGone)
	case errors.Is(err, errExpired):
		fail(w, http.StatusBadRequest, tokenGone, tokenExpired)
	case errors.Is(err, errMayNot), errors.Is(err, ErrUnknownRole), errors.Is(err, errNoUser): // gone since the request began
		fail(w, http.StatusForbidden, permissionDenied)
	case errors.Is(err, errTooMany), errors.Is(err, errTooFast), errors.Is(err, errLookups):
		fail(w, http.StatusTooManyRequests, err.Error())
	case errors.Is(err, errRequest):
		fail(w, http.StatusBadRequest, err.Error())
	default:
		s.log.Error("storage", zap.String("op", op), zap.Error(err))
		fail(w, http.StatusInternalServerError, "internal error")
		s.audit(r, op, user, accessor, "internal error")
		return
	}
	s.audit(r, op, user, accessor, err.Error())
}

// authenticate finds the user of X-Vault-Token, or answers 403 as Vault does.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, op string) (bearer, bool) {
	token := headerToken(r)
	if token == "" || len(token) > maxTokenIn {
		fail(w, http.StatusForbidden, permissionDenied)
		s.audit(r, op, "", "", "no token")
		return bearer{}, false
	}
	u, err := s.find(token)
	if errors.Is(err, errNoUser) {
		fail(w, http.StatusForbidden, permissionDenied)
		s.audit(r, op, "", "", "unknown token")
		return bearer{}, false
	}
	if err != nil {
		s.refuse(w, r, op, "", "", err)
		return bearer{}, false
	}
	return u, true
}

func (s *Server) wrap(w http.ResponseWriter, r *http.Request) {
	u, role, ok := s.authorize(w, r, "wrap", MayWrap)
	if !ok {
		return
	}
	body, err := io.ReadAll(r.Body)
	defer clear(body)
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request body is not readable or too large")
		return
	}
	ttl, err := parseTTL(r.Header.Get("X-Vault-Wrap-TTL"))
	if err != nil {
		s.refuse(w, r, "wrap", u.Name, "", err)
		return
	}
	data, err := parseWrap(body)
	if err != nil {
		s.refuse(w, r, "wrap", u.Name, "", err)
		return
	}
	defer clear(data)
	if !s.wraps.take(role.Rate, u.Name, s.cfg.now()) {
		s.refuse(w, r, "wrap", u.Name, "", errTooFast)
		return
	}
	var warnings []string
	if longest := lower(s.cfg.MaxTTL, role.MaxTTL); ttl > longest {
		ttl = longest.Truncate(time.Second)
		warnings = []string{"the wrapping token's TTL was lowered to this server's maximum of " + longest.String()}
	}
	token, rec, err := s.store.wrap(u.Name, data, s.cfg.now(), ttl, lower(s.cfg.MaxTokens, role.MaxTokens))
	if err != nil {
		s.refuse(w, r, "wrap", u.Name, "", err)
		return
	}
	s.audit(r, "wrap", u.Name, rec.Accessor, "ok")
	reply(w, answer{Warnings: warnings, WrapInfo: &wrapInfo{
		Token: token, Accessor: rec.Accessor, TTL: rec.TTL, CreationTime: rfc3339(rec.Created), CreationPath: wrapPath,
	}})
}

// wrapPath is the only way by which this server makes wrapping tokens.
const wrapPath = "sys/wrapping/wrap"

func rfc3339(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339Nano) }

// presented is the wrapping token of a lookup or unwrap: in the body, or else
// in the header, as Vault takes it.
func (s *Server) presented(w http.ResponseWriter, r *http.Request, op string) (string, bool) {
	body, err := io.ReadAll(r.Body)
	defer clear(body)
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request body is not readable or too large")
		return "", false
	}
	token, err := parseToken(body, headerToken(r))
	if err != nil {
		s.refuse(w, r, op, "", "", err)
		return "", false
	}
	return token, true
}

func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	token, ok := s.presented(w, r, "lookup")
	if !ok {
		return
	}
	rec, err := s.store.lookup(token, s.cfg.now())
	if err != nil {
		s.refuse(w, r, "lookup", rec.User, rec.Accessor, err)
		return
	}
	if !s.lookups.take(originOf(r.RemoteAddr), s.cfg.now()) {
		s.refuse(w, r, "lookup", rec.User, rec.Accessor, errLookups)
		return
	}
	s.audit(r, "lookup", rec.User, rec.Accessor, "ok")
	data, _ := json.Marshal(struct {
		CreationPath string `json:"creation_path"`
		CreationTime string `json:"creation_time"`
		CreationTTL  int64  `json:"creation_ttl"`
	}{wrapPath, rfc3339(rec.Created), rec.TTL}) // cannot fail
	reply(w, answer{Data: data})
}

func (s *Server) unwrap(w http.ResponseWriter, r *http.Request) {
	token, ok := s.presented(w, r, "unwrap")
	if !ok {
		return
	}
	rec, data, err := s.store.redeem(token, s.cfg.now())
	if err != nil {
		s.refuse(w, r, "unwrap", rec.User, rec.Accessor, err)
		return
	}
	defer clear(data)
	s.audit(r, "unwrap", rec.User, rec.Accessor, "ok")
	reply(w, answer{Data: data})
}

func (s *Server) revokeAccessor(w http.ResponseWriter, r *http.Request) {
	u, ok := s.authenticate(w, r, "revoke")
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
		s.refuse(w, r, "revoke", u.Name, "", err)
		return
	}
	role, err := s.users.role(u.role())
	if err != nil {
		s.refuse(w, r, "revoke", u.Name, "", err)
		return
	}
	if err := s.store.revoke(u.Name, accessor, role.may(MayRevoke)); errors.Is(err, errGone) {
		fail(w, http.StatusBadRequest, "invalid accessor")
		s.audit(r, "revoke", u.Name, "", "invalid accessor")
		return
	} else if err != nil {
		s.refuse(w, r, "revoke", u.Name, accessor, err)
		return
	}
	s.audit(r, "revoke", u.Name, accessor, "ok")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{
		"initialized": true, "sealed": false, "standby": false, "performance_standby": false,
		"replication_performance_mode": "disabled", "replication_dr_mode": "disabled",
		"server_time_utc": s.cfg.now().Unix(), "version": Version,
	})
}

func (s *Server) sealStatus(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{
		"type": "shamir", "initialized": true, "sealed": false, "t": 1, "n": 1, "progress": 0, "nonce": "",
		"version": Version, "build_date": "", "migration": false, "recovery_seal": false, "storage_type": "bbolt",
	})
}

// leader is asked by `vault status`: there is one server, and no cluster.
func (s *Server) leader(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{"ha_enabled": false, "is_self": false, "leader_address": "", "leader_cluster_address": ""})
}
