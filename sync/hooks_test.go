package sync

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/source"
)

type poked struct {
	source.Watcher
	src   v1alpha1.Source
	times int
}

func (p *poked) Poke()                      { p.times++ }
func (p *poked) Sources() []v1alpha1.Source { return []v1alpha1.Source{p.src} }

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestHooks(t *testing.T) {
	withSecret := func(name, secret string) *poked {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return &poked{src: named(name, v1alpha1.SourceSpec{Forge: &v1alpha1.Forge{WebhookSecretFile: path}})}
	}
	a, b, empty, none := withSecret("a", "one"), withSecret("b", "two"), withSecret("c", ""), &poked{src: named("d", v1alpha1.SourceSpec{})}
	h := newHooks(func() []source.Watcher { return []source.Watcher{a, b, empty, none} }, slog.New(slog.DiscardHandler), newMetrics(nil))
	const body = `{"ref":"refs/heads/main"}`
	for name, c := range map[string]struct {
		method, header, value, body string
		code                        int
	}{
		"forgejo":          {"POST", "X-Forgejo-Signature", sign("one", body), body, 202},
		"gitea":            {"POST", "X-Gitea-Signature", sign("one", body), body, 202},
		"github's form":    {"POST", "X-Hub-Signature-256", "sha256=" + sign("one", body), body, 202},
		"another secret":   {"POST", "X-Gitea-Signature", sign("three", body), body, 401},
		"an empty secret":  {"POST", "X-Gitea-Signature", sign("", body), body, 401},
		"another body":     {"POST", "X-Gitea-Signature", sign("one", body), body + " ", 401},
		"no signature":     {"POST", "X-Other", "x", body, 401},
		"half a signature": {"POST", "X-Gitea-Signature", sign("one", body)[:10], body, 401},
		"reading":          {"GET", "X-Gitea-Signature", sign("one", ""), "", 405},
		"a body too large": {"POST", "X-Gitea-Signature", sign("one", body), strings.Repeat("x", maxHook+1), 413},
	} {
		before := a.times
		r := httptest.NewRequestWithContext(context.Background(), c.method, "/hooks/git", strings.NewReader(c.body))
		r.Header.Set(c.header, c.value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || (a.times > before) != (c.code == 202) {
			t.Errorf("%s: code %d, want %d; poked %d", name, w.Code, c.code, a.times-before)
		}
	}
	if b.times+empty.times+none.times != 0 {
		t.Error("a repository without that secret was poked")
	}
}

// TestHooksOfOthers: neither bodies that do not come nor forged ones keep the genuine from being heard, also where they
// come from its own address; who sends much is told to wait, and alone.
func TestHooksOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &poked{src: named("a", v1alpha1.SourceSpec{Forge: &v1alpha1.Forge{WebhookSecretFile: path}})}
	h := newHooks(func() []source.Watcher { return []source.Watcher{a} }, slog.New(slog.DiscardHandler), newMetrics(nil))
	const body = `{"ref":"refs/heads/main"}`
	post := func(from, value string, r io.Reader) int {
		request := httptest.NewRequestWithContext(t.Context(), "POST", "/hooks/git", r)
		request.RemoteAddr = from
		request.Header.Set("X-Gitea-Signature", value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request)
		return w.Code
	}
	genuine := func(from string) int { return post(from, sign("one", body), strings.NewReader(body)) }
	const forge, other = "192.0.2.1:1", "192.0.2.2:1"
	for range 200 {
		if code := post(forge, sign("made up", body), strings.NewReader(body)); code != http.StatusUnauthorized {
			t.Fatalf("a forged hook: %d", code)
		}
	}
	if code := genuine(forge); code != http.StatusAccepted {
		t.Errorf("the genuine after 200 forged: %d", code)
	}
	var slow sync.WaitGroup
	var ends []io.Closer
	for range peerReaders {
		r, w := io.Pipe()
		ends = append(ends, w)
		slow.Go(func() { post(other, sign("made up", body), r) })
		if _, err := io.WriteString(w, "{"); err != nil { // it is being read
			t.Fatal(err)
		}
	}
	if code := genuine(other); code != http.StatusTooManyRequests {
		t.Errorf("one more from the address with %d slow bodies: %d", peerReaders, code)
	}
	if code := genuine(forge); code != http.StatusAccepted {
		t.Errorf("the genuine beside %d slow ones: %d", peerReaders, code)
	}
	for _, w := range ends {
		_ = w.Close()
	}
	slow.Wait()
	limited := 0
	for range 2 * hashBurst / maxHook {
		if post(other, sign("made up", body), bytes.NewReader(make([]byte, maxHook))) == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited == 0 {
		t.Error("a storm of large hooks is not limited")
	}
	if code := genuine(forge); code != http.StatusAccepted {
		t.Errorf("the genuine beside a storm: %d", code)
	}
}

// TestSlowHook: a body that does not come is given up long before a request would be.
func TestSlowHook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &poked{src: named("a", v1alpha1.SourceSpec{Forge: &v1alpha1.Forge{WebhookSecretFile: path}})}
	h := newHooks(func() []source.Watcher { return []source.Watcher{a} }, slog.New(slog.DiscardHandler), newMetrics(nil))
	h.patience = 100 * time.Millisecond
	s := httptest.NewServer(h)
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nX-Gitea-Signature: %s\r\nContent-Length: 100\r\n\r\n{",
		sign("made up", "{")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
		t.Errorf("a body that does not come is answered %q, %v", answer, err)
	}
}
