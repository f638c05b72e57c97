package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"lockstep/internal/whole"
	"lockstep/sync/forge/forgetest"
)

// outagePath is where the hub is told that its forge is to fail: POST begins an outage, DELETE ends it.
const outagePath = "/lab/forge/outage"

// keptForge is a forge whose statuses are on disk.
type keptForge struct {
	*forgetest.Server
	file string
}

func newKeptForge(file string) (*keptForge, error) {
	f := &keptForge{Server: forgetest.New(), file: file}
	raw, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, f.Server)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the forge's statuses: %w", err)
	}
	return f, nil
}

// ServeHTTP answers a status that was posted only when it is on disk.
func (f *keptForge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == outagePath {
		switch r.Method {
		case http.MethodPost:
			f.Outage(forgetest.Fault{Code: http.StatusServiceUnavailable})
		case http.MethodDelete:
			f.Heal()
		default:
			http.Error(w, "want POST or DELETE", http.StatusMethodNotAllowed)
		}
		return
	}
	f.Server.ServeHTTP(w, r)
	if r.Method != http.MethodPost {
		return
	}
	raw, err := json.Marshal(f.Server)
	if err == nil {
		err = whole.Write(f.file, raw)
	}
	if err != nil {
		slog.Error("cannot keep the forge's statuses", "error", err)
	}
}

// FailForge makes the hub's forge answer every request with 503 until HealForge. Git is served on.
func (l *Lab) FailForge(ctx context.Context) error {
	return l.askForge(ctx, http.MethodPost, outagePath, nil)
}

// HealForge ends what FailForge began.
func (l *Lab) HealForge(ctx context.Context) error {
	return l.askForge(ctx, http.MethodDelete, outagePath, nil)
}

// Statuses returns the statuses that the forge has received for a commit of a repository (owner/name), the oldest first.
func (l *Lab) Statuses(ctx context.Context, repository, commit string) ([]forgetest.Status, error) {
	const perPage = 50
	var newest []forgetest.Status
	for page := 1; ; page++ {
		var some []forgetest.Status
		path := fmt.Sprintf("/api/v1/repos/%s/statuses/%s?page=%d&limit=%d", repository, commit, page, perPage)
		if err := l.askForge(ctx, http.MethodGet, path, &some); err != nil {
			return nil, err
		}
		newest = append(newest, some...)
		if len(some) < perPage {
			break
		}
	}
	out := make([]forgetest.Status, 0, len(newest))
	for i := len(newest) - 1; i >= 0; i-- {
		out = append(out, newest[i])
	}
	return out, nil
}

func (l *Lab) askForge(ctx context.Context, method, path string, into any) error {
	hub, err := l.Host(Hub)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, hubHTTP+path, nil)
	if err != nil {
		return fmt.Errorf("cannot ask the forge: %w", err)
	}
	client := hub.HTTP()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot ask the forge: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("cannot ask the forge for %s: %s: %s", path, response.Status, strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("cannot read the forge's answer to %s: %w", path, err)
	}
	return nil
}
