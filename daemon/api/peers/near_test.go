package peers

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lockstep/daemon/api/tunnel"
)

// broken is the connection of an agent that has gone to another server.
type broken struct{ asked int }

func (b *broken) RoundTrip(*http.Request) (*http.Response, error) {
	b.asked++
	return nil, errors.New("the connection is lost")
}

// TestAnAgentMovesUnderARequest: what fails on an agent's own connection is asked of the server that has it now, but what has a body is
// not sent twice; and an agent that nobody has is told as such.
func TestAnAgentMovesUnderARequest(t *testing.T) {
	listed := map[string]float64{"n1": 1}
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == nodesPath {
			_ = json.NewEncoder(w).Encode(listed)
			return
		}
		_, _ = io.WriteString(w, "by the other: "+r.URL.Path)
	}))
	defer other.Close()
	p := New(Options{
		Own: &tunnel.Pool{}, TLS: other.Client().Transport.(*http.Transport).TLSClientConfig, Log: slog.New(slog.DiscardHandler),
		Others: func() []Server { return []Server{{Name: "s2", Address: other.Listener.Addr().String()}} },
	})
	defer p.Close()
	ask := func(node, body string) string {
		own := &broken{}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+node+"/healthz", http.NoBody)
		if body != "" {
			r.Body = io.NopCloser(strings.NewReader(body))
		}
		res, err := near{own, far{p, node}}.RoundTrip(r)
		if own.asked != 1 {
			t.Errorf("the own connection of %s was asked %d times", node, own.asked)
		}
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return string(text)
	}
	for _, c := range []struct{ node, body, want string }{
		{"n1", "", "by the other: " + agentPath + "n1/healthz"},
		{"n1", "once", "the connection is lost"},
		{"n2", "", "the agent of node n2 has no connection to any server"},
	} {
		if got := ask(c.node, c.body); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.node, c.body, got, c.want)
		}
	}
}
