package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/settings"
	"lockstep/internal/sleep"
	"lockstep/internal/whole"
)

const (
	settingsPath = "/lockstep/v1/settings"
	// settingsTimeout bounds one request: the server knows the answer.
	settingsTimeout = 15 * time.Second
	// maxSettings bounds the answer, of some hundred bytes.
	maxSettings = 64 << 10
)

func (o Options) settingsFile() string { return filepath.Join(o.agentDir(), "settings") }

// keptSettings are the cluster's as this node was told last, for a start without the API; told is false, and they are the
// default, where it never was.
func (o Options) keptSettings() (s settings.Settings, told bool, err error) {
	data, err := os.ReadFile(o.settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return settings.Default(), false, nil
	}
	if err == nil {
		s, err = settings.Decode(data)
	}
	return s, true, err
}

// learnSettings asks what the cluster was made with, until it is answered, and keeps it. A node that has begun with other
// settings cannot go on with those, and is an error.
func (a *Agent) learnSettings(ctx context.Context, link http.RoundTripper) error {
	var is settings.Settings
	begun, told := time.Now(), false
	for wait := joinRetry / 10; ; wait = min(2*wait, joinRetry) {
		var err error
		if is, err = a.askSettings(ctx, link); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told && time.Since(begun) > joinPatience {
			a.log.Warn("cannot learn the cluster's settings yet", "error", err)
			told = true
		}
		sleep.For(ctx, wait)
	}
	was, kept, err := a.opts.keptSettings()
	if err == nil && kept && was.Equal(is) {
		return nil
	}
	if err := whole.Write(a.opts.settingsFile(), is.Encode()); err != nil {
		return fmt.Errorf("cannot keep the cluster's settings: %w", err)
	}
	a.mu.Lock()
	was = a.opts.cluster
	running := a.cluster.Snapshot() != nil || len(a.pods) > 0
	if !running {
		a.opts.cluster = is
	}
	a.mu.Unlock()
	if err := settings.Differ("in the cluster", is, "as this node has begun", was); running && err != nil {
		return fmt.Errorf("cannot go on with other settings, start the agent again: %w", err)
	}
	return nil
}

// askSettings asks once. A server that does not know the question is of a release in which there were only the default's.
func (a *Agent) askSettings(ctx context.Context, link http.RoundTripper) (settings.Settings, error) {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.servers.Current()+settingsPath, nil)
	if err != nil {
		return settings.Settings{}, err
	}
	response, err := (&http.Client{Transport: link}).Do(request)
	if err != nil {
		return settings.Settings{}, err
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return settings.Default(), nil
	default:
		return settings.Settings{}, errors.New("the server answers " + response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxSettings))
	if err != nil {
		return settings.Settings{}, err
	}
	return settings.Decode(data)
}

// settings are those that the node works with.
func (a *Agent) settings() settings.Settings {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opts.cluster
}

// namesAt are where the cluster's names are asked for, and their domain.
func (a *Agent) namesAt() (servers []netip.Addr, domain string) {
	s := a.settings()
	return s.DNS(), s.Domain
}
