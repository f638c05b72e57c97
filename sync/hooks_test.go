package sync

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	h := newHooks([]source.Watcher{a, b, empty, none}, slog.New(slog.DiscardHandler), newMetrics(nil))
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
	limited := false
	for range 2 * hookBurst {
		r := httptest.NewRequestWithContext(context.Background(), "POST", "/hooks/git", strings.NewReader(body))
		r.Header.Set("X-Gitea-Signature", sign("one", body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		limited = limited || w.Code == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("a storm of hooks was not limited")
	}
}
