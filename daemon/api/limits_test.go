package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/store/memory"
)

func TestTooManyRequests(t *testing.T) {
	s := newTestServer(t, nil)
	for range cap(s.server.reads) {
		s.server.reads <- struct{}{}
	}
	if code, body := s.ask(s.viewer(), "GET", "/api/v1/pods", ""); code != http.StatusTooManyRequests ||
		!strings.Contains(body, `"retryAfterSeconds":1`) {
		t.Errorf("over the bound: %d %s", code, body)
	}
	if code, _ := s.ask(s.viewer(), "GET", "/readyz", ""); code != http.StatusOK {
		t.Errorf("a probe over the bound: %d", code)
	}
}

// TestSlowBody sends the head of requests and no body: the connection is not kept for it, also where nobody wants the body.
// A watch outlives the time that requests have.
func TestSlowBody(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil))
	s.stop()
	s.opts.Registerer, s.opts.RequestTimeout = nil, 300*time.Millisecond
	s.start(s.address)
	w := watchMaps(t, client(t, s.viewer()), metav1.ListOptions{})
	expect(t, "the first", take(t, w, 1), "ADDED one")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.authority.PEM())
	for _, path := range []string{
		rights.JoinPath, "/api/v1/pods", "/api/v1/pods?watch=true", "/nowhere",
		"/api/v1/pods?a=" + strings.Repeat("a", maxURI),
	} {
		c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
			path); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is kept", path)
		}
		_ = c.Close()
	}
	s.put(configMap("a", "two", nil))
	expect(t, "after the slow ones", take(t, w, 1), "ADDED two")
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
	authority, err := pki.Open(pki.Dir(t.TempDir()), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Store: memory.New(), Authority: authority, Log: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/version": 200, "/api/v1/pods": 503, rights.JoinPath: 503} {
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
