package sync

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/quota"
	"lockstep/sync/source"
)

const (
	// maxHook bounds a webhook's body: Gitea sends at most a few dozen commits, each of some kilobytes.
	maxHook = 4 << 20
	// hookBody is how long a body may take: whoever sends it is known only when all of it is there.
	hookBody = 10 * time.Second
	// peerReaders and hookReaders bound the bodies that are being read, from one address and in all. None is kept: each
	// costs its connection and a buffer of 32 KiB.
	peerReaders, hookReaders = 32, 1000
	// hashRate and hashBurst are the bytes a second that are hashed for one address, once for each secret: a forge that
	// tells of a few pushes a second stays far below it, and small forgeries do not use it up.
	hashRate, hashBurst = 16 << 20, 128 << 20
	// hashLeast is what a hook counts for at least: its secrets are read from their files.
	hashLeast = 16 << 10
)

// hooks is POST /hooks/git: a signed webhook of Gitea or Forgejo makes the repositories of its secret be looked at.
type hooks struct {
	watchers func() []source.Watcher
	hashed   *quota.Rate
	peers    *quota.Gate
	all      *quota.Gate
	patience time.Duration // with a body
	// elsewhere tells who leads of those that were poked; nil: nobody else needs to know.
	elsewhere func(context.Context, []source.Watcher) error
	log       *slog.Logger
	metrics   *metrics
}

func newHooks(watchers func() []source.Watcher, log *slog.Logger, m *metrics) *hooks {
	return &hooks{
		watchers: watchers, hashed: quota.NewRate(hashRate, hashBurst), peers: quota.NewGate(peerReaders), all: quota.NewGate(hookReaders),
		patience: hookBody, log: log, metrics: m,
	}
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
	secrets := h.secrets()
	if len(secrets) == 0 {
		return http.StatusUnauthorized
	}
	peer := quota.Peer(r.RemoteAddr)
	leave := h.enter(peer)
	if leave == nil {
		w.Header().Set("Retry-After", "1")
		return http.StatusTooManyRequests
	}
	defer leave()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.patience))
	signers, n, err := signersOf(http.MaxBytesReader(w, r.Body, maxHook), secrets, signature)
	h.hashed.Spend(peer, float64(max(n*int64(len(secrets)), hashLeast)), time.Now())
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case err != nil:
		return http.StatusRequestTimeout
	case len(signers) == 0:
		return http.StatusUnauthorized
	}
	for _, watcher := range signers {
		watcher.Poke()
	}
	if h.elsewhere != nil {
		if err := h.elsewhere(r.Context(), signers); err != nil {
			h.log.Warn("the leader cannot be told of a webhook: it looks by itself in time", "error", err)
			return http.StatusServiceUnavailable
		}
	}
	h.log.Debug("webhook", "repositories", len(signers))
	return http.StatusAccepted
}

// enter counts a body that is being read; leave is nil where the address has had its share, or there are too many.
func (h *hooks) enter(peer string) (leave func()) {
	if !h.hashed.Allow(peer, 0, time.Now()) {
		return nil
	}
	one := h.peers.Enter(peer)
	if one == nil {
		return nil
	}
	all := h.all.Enter("")
	if all == nil {
		one()
		return nil
	}
	return func() {
		all()
		one()
	}
}

// secrets are those of all sources, each with the watchers it is for. An empty one signs nothing.
func (h *hooks) secrets() map[string][]source.Watcher {
	out := map[string][]source.Watcher{}
	for _, watcher := range h.watchers() {
		for _, s := range watcher.Sources() {
			if s.Spec.Forge == nil || s.Spec.Forge.WebhookSecretFile == "" {
				continue
			}
			data, err := os.ReadFile(s.Spec.Forge.WebhookSecretFile)
			if err != nil {
				h.log.Error("cannot read the webhook secret file", "source", s.Name, "error", err)
				continue
			}
			if secret := strings.TrimSpace(string(data)); secret != "" && !slices.Contains(out[secret], watcher) {
				out[secret] = append(out[secret], watcher)
			}
		}
	}
	return out
}

// signersOf hashes a body as it comes, and returns the watchers with a secret that it is signed with, and its length.
func signersOf(body io.Reader, secrets map[string][]source.Watcher, signature []byte) ([]source.Watcher, int64, error) {
	sums, into := map[string]hash.Hash{}, make([]io.Writer, 0, len(secrets))
	for secret := range secrets {
		sum := hmac.New(sha256.New, []byte(secret))
		sums[secret], into = sum, append(into, sum)
	}
	n, err := io.Copy(io.MultiWriter(into...), body)
	if err != nil {
		return nil, n, err
	}
	for secret, sum := range sums {
		if hmac.Equal(sum.Sum(nil), signature) {
			return secrets[secret], n, nil
		}
	}
	return nil, n, nil
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
