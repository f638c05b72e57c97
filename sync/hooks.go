package sync

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"lockstep/sync/source"
)

const (
	// maxHook bounds a webhook's body: Gitea sends at most a few dozen commits, each of some kilobytes.
	maxHook = 4 << 20
	// hookRate and hookBurst bound the bodies that are read and hashed a second; pokes beyond them would be one anyway.
	hookRate, hookBurst = 20, 40
	// hookReaders bounds the bodies in memory at a time.
	hookReaders = 4
)

// hooks is POST /hooks/git: a signed webhook of Gitea or Forgejo makes the repositories of its secret be looked at.
type hooks struct {
	watchers []source.Watcher
	limit    *rate.Limiter
	reading  chan struct{}
	log      *slog.Logger
	metrics  *metrics
}

func newHooks(watchers []source.Watcher, log *slog.Logger, m *metrics) *hooks {
	return &hooks{watchers: watchers, limit: rate.NewLimiter(hookRate, hookBurst), reading: make(chan struct{}, hookReaders), log: log, metrics: m}
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code := h.serve(w, r)
	h.metrics.hooks.WithLabelValues(strconv.Itoa(code)).Inc()
	if code == http.StatusAccepted {
		w.WriteHeader(code)
		return
	}
	http.Error(w, strings.ToLower(http.StatusText(code)), code)
}

func (h *hooks) serve(w http.ResponseWriter, r *http.Request) int {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed
	}
	signature := signatureOf(r.Header)
	if signature == nil {
		return http.StatusUnauthorized
	}
	if !h.limit.Allow() {
		w.Header().Set("Retry-After", "1")
		return http.StatusTooManyRequests
	}
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
	case <-r.Context().Done():
		return http.StatusServiceUnavailable
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHook))
	if err != nil {
		return http.StatusRequestEntityTooLarge
	}
	poked := 0
	for _, watcher := range h.watchers {
		if h.signed(watcher, body, signature) {
			watcher.Poke()
			poked++
		}
	}
	if poked == 0 {
		return http.StatusUnauthorized
	}
	h.log.Debug("webhook", "repositories", poked)
	return http.StatusAccepted
}

// signed says whether a source of the watcher has the secret that the body is signed with. An empty secret signs
// nothing.
func (h *hooks) signed(w source.Watcher, body, signature []byte) bool {
	for _, s := range w.Sources() {
		if s.Spec.Forge == nil || s.Spec.Forge.WebhookSecretFile == "" {
			continue
		}
		data, err := os.ReadFile(s.Spec.Forge.WebhookSecretFile)
		if err != nil {
			h.log.Error("cannot read the webhook secret file", "source", s.Name, "error", err)
			continue
		}
		secret := strings.TrimSpace(string(data))
		if secret == "" {
			continue
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		if hmac.Equal(mac.Sum(nil), signature) {
			return true
		}
	}
	return false
}

// signatureOf returns the HMAC-SHA256 that a webhook carries, or nil. Gitea, Forgejo (both in hexadecimal) and GitHub's
// form, which both send too ("sha256=" before it).
func signatureOf(header http.Header) []byte {
	for _, name := range []string{"X-Forgejo-Signature", "X-Gitea-Signature", "X-Hub-Signature-256"} {
		value := strings.TrimPrefix(header.Get(name), "sha256=")
		if sum, err := hex.DecodeString(value); err == nil && len(sum) == sha256.Size {
			return sum
		}
	}
	return nil
}
