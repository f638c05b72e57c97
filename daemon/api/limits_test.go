package api

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lockstep/daemon/store/memory"
)

func TestTooManyRequests(t *testing.T) {
	s := newTestServer(t, nil)
	for range cap(s.server.reads) {
		s.server.reads <- struct{}{}
	}
	if code, body := s.ask(s.viewer(), "GET", "/api/v1/pods", ""); code != http.StatusTooManyRequests || !strings.Contains(body, `"retryAfterSeconds":1`) {
		t.Errorf("over the bound: %d %s", code, body)
	}
	if code, _ := s.ask(s.viewer(), "GET", "/readyz", ""); code != http.StatusOK {
		t.Errorf("a probe over the bound: %d", code)
	}
}

func TestReadiness(t *testing.T) {
	s := newTestServer(t, nil)
	s.store.SetHealth(errors.New("etcd is full"))
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/readyz":         {503, "[-]etcd failed: etcd is full"},
		"/readyz?verbose": {503, "[+]view ok"},
		"/readyz/view":    {200, "ok"},
		"/livez":          {200, "ok"},
	} {
		if code, body := s.ask(s.viewer(), "GET", path, ""); code != want.code || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	s.store.SetHealth(nil)
	if code, body := s.ask(s.viewer(), "GET", "/readyz?verbose", ""); code != 200 || !strings.HasSuffix(body, "readyz check passed\n") {
		t.Errorf("/readyz when well: %d %s", code, body)
	}
}

// TestStarting asks a server that does not run yet.
func TestStarting(t *testing.T) {
	s := New(Options{Store: memory.New(), Log: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/version": 200, "/api/v1/pods": 503, joinPath: 503} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if want == 503 && path != "/readyz" && w.Header().Get("Retry-After") == "" {
			t.Errorf("%s does not say when to come back", path)
		}
	}
}
