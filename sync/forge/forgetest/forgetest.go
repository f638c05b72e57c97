// Package forgetest is a server that keeps commit statuses as Gitea's API documents.
package forgetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Status is one commit status as the server keeps it; the JSON is Gitea's (api/v1, CommitStatus).
type Status struct {
	ID          int64     `json:"id"`
	State       string    `json:"status"`
	TargetURL   string    `json:"target_url"`
	Description string    `json:"description"`
	URL         string    `json:"url"`
	Context     string    `json:"context"`
	Created     time.Time `json:"created_at"`
	Updated     time.Time `json:"updated_at"`
}

// Server keeps the statuses of any repositories. The zero value is not usable; see New.
type Server struct {
	// Token is what clients must send; empty: nothing is asked for. Set it before the first request.
	Token string
	// Known says whether a commit of a repository ("owner/name") exists. Nil: all do. Set it before the first request.
	Known func(repository, commit string) bool

	mu       sync.Mutex
	next     int64
	statuses map[string][]Status // by "owner/name@commit"
	faults   []Fault
	requests int
}

// Fault is how the server answers a request instead of serving it.
type Fault struct {
	// Code is the HTTP status. Zero: the connection is cut.
	Code int
	// RetryAfter is sent where it is not zero, in seconds.
	RetryAfter int
	// Served says that the request is carried out all the same, before the fault is answered: an answer that was lost.
	Served bool
}

// New returns a server without statuses.
func New() *Server { return &Server{statuses: map[string][]Status{}} }

// Fail makes the next requests, one a fault, go wrong.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	s.faults = append(s.faults, faults...)
	s.mu.Unlock()
}

// Outage makes every request go wrong until Heal.
func (s *Server) Outage(f Fault) {
	s.mu.Lock()
	s.faults = nil
	for range 10_000 {
		s.faults = append(s.faults, f)
	}
	s.mu.Unlock()
}

// Heal ends what Fail and Outage began.
func (s *Server) Heal() {
	s.mu.Lock()
	s.faults = nil
	s.mu.Unlock()
}

// Statuses returns what a commit of a repository has received, the oldest first.
func (s *Server) Statuses(repository, commit string) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Status(nil), s.statuses[repository+"@"+commit]...)
}

// MarshalJSON writes all statuses.
func (s *Server) MarshalJSON() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.Marshal(s.statuses)
}

// UnmarshalJSON takes over the statuses that MarshalJSON wrote.
func (s *Server) UnmarshalJSON(raw []byte) error {
	statuses := map[string][]Status{}
	if err := json.Unmarshal(raw, &statuses); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses = statuses
	for _, list := range statuses {
		for _, st := range list {
			s.next = max(s.next, st.ID)
		}
	}
	return nil
}

// Requests counts all requests, those that went wrong too.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// ServeHTTP serves POST …/statuses/{sha}, GET …/statuses/{sha}, GET …/commits/{ref}/statuses, GET …/commits/{ref}/status
// below /api/v1/repos/{owner}/{repo}, and GET /api/v1/version.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, failing := s.takeFault()
	if failing && !fault.Served {
		answer(w, fault)
		return
	}
	if failing {
		s.serve(discard{http.Header{}}, r)
		answer(w, fault)
		return
	}
	s.serve(w, r)
}

func (s *Server) takeFault() (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if len(s.faults) == 0 {
		return Fault{}, false
	}
	f := s.faults[0]
	s.faults = s.faults[1:]
	return f, true
}

func answer(w http.ResponseWriter, f Fault) {
	if f.Code == 0 {
		panic(http.ErrAbortHandler)
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	refuse(w, f.Code, http.StatusText(f.Code))
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.Token != "" && r.Header.Get("Authorization") != "token "+s.Token {
		refuse(w, http.StatusUnauthorized, "invalid username, password or token")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if !ok {
		refuse(w, http.StatusNotFound, "not found")
		return
	}
	if path == "version" {
		reply(w, http.StatusOK, map[string]string{"version": "1.22.0"})
		return
	}
	p := strings.Split(path, "/")
	if len(p) < 5 || p[0] != "repos" {
		refuse(w, http.StatusNotFound, "not found")
		return
	}
	repository, commit := p[1]+"/"+p[2], p[4]
	if s.Known != nil && !s.Known(repository, commit) {
		refuse(w, http.StatusNotFound, "The target couldn't be found.")
		return
	}
	key := repository + "@" + commit
	switch {
	case r.Method == http.MethodPost && p[3] == "statuses" && len(p) == 5:
		s.create(w, r, key)
	case r.Method == http.MethodGet && (p[3] == "statuses" && len(p) == 5 || p[3] == "commits" && len(p) == 6 && p[5] == "statuses"):
		s.list(w, r, key)
	case r.Method == http.MethodGet && p[3] == "commits" && len(p) == 6 && p[5] == "status":
		s.combined(w, key, commit)
	default:
		refuse(w, http.StatusMethodNotAllowed, "method not allowed")
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, key string) {
	var in struct {
		State       string `json:"state"`
		TargetURL   string `json:"target_url"`
		Description string `json:"description"`
		Context     string `json:"context"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		refuse(w, http.StatusUnprocessableEntity, "the body is not a status")
		return
	}
	switch in.State {
	case "pending", "success", "error", "failure", "warning":
	default:
		refuse(w, http.StatusBadRequest, fmt.Sprintf("unknown CommitStatusState: %q", in.State))
		return
	}
	if in.Context == "" {
		in.Context = "default"
	}
	s.mu.Lock()
	s.next++
	now := time.Now().UTC().Truncate(time.Second)
	status := Status{ID: s.next, State: in.State, TargetURL: in.TargetURL, Description: in.Description, Context: in.Context,
		URL: "http://" + r.Host + r.URL.Path, Created: now, Updated: now}
	s.statuses[key] = append(s.statuses[key], status)
	s.mu.Unlock()
	reply(w, http.StatusCreated, status)
}

// list pages through the statuses, the newest first as Gitea does.
func (s *Server) list(w http.ResponseWriter, r *http.Request, key string) {
	page, limit := 1, 30
	if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil && n > 0 {
		page = n
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil && n > 0 {
		limit = min(n, 50)
	}
	s.mu.Lock()
	all := s.statuses[key]
	out := []Status{}
	for i := len(all) - 1 - (page-1)*limit; i >= 0 && len(out) < limit; i-- {
		out = append(out, all[i])
	}
	s.mu.Unlock()
	w.Header().Set("X-Total-Count", strconv.Itoa(len(all)))
	reply(w, http.StatusOK, out)
}

// combined is the newest status of every context, and the worst state of them.
func (s *Server) combined(w http.ResponseWriter, key, commit string) {
	s.mu.Lock()
	newest := map[string]Status{}
	var order []string
	for _, st := range s.statuses[key] {
		if _, ok := newest[st.Context]; !ok {
			order = append(order, st.Context)
		}
		newest[st.Context] = st
	}
	s.mu.Unlock()
	rank := map[string]int{"": 0, "success": 1, "warning": 2, "pending": 3, "failure": 4, "error": 5}
	state, list := "", []Status{}
	for _, context := range order {
		st := newest[context]
		list = append(list, st)
		if rank[st.State] > rank[state] {
			state = st.State
		}
	}
	reply(w, http.StatusOK, map[string]any{"state": state, "sha": commit, "total_count": len(list), "statuses": list})
}

func refuse(w http.ResponseWriter, code int, message string) {
	reply(w, code, map[string]string{"message": message, "url": "/api/swagger"})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
