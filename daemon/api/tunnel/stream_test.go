package tunnel

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// to sends requests to a server, whatever host they name.
type to struct {
	server *httptest.Server
	next   http.RoundTripper
}

func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	at, err := url.Parse(t.server.URL)
	if err != nil {
		return nil, err
	}
	r.URL.Scheme, r.URL.Host = at.Scheme, at.Host
	return t.next.RoundTrip(r)
}

// TestStream: what is written comes back as it was sent, in both directions at once; a refusal is told, a deadline ends it, and so
// does closing it at either end.
func TestStream(t *testing.T) {
	ended := make(chan struct{}, 3)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /csi/echo", func(w http.ResponseWriter, r *http.Request) {
		out := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		_ = out.Flush()
		buffer := make([]byte, 1<<10)
		for {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			_ = out.Flush()
			if err != nil {
				ended <- struct{}{}
				return
			}
		}
	})
	mux.HandleFunc("POST /csi/none", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such driver", http.StatusBadGateway)
	})
	mux.HandleFunc("POST /csi/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	agent := to{server, server.Client().Transport}
	conn, err := stream(t.Context(), agent, "n1", "/csi/echo")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", strings.Repeat("two", 1000)} {
		go func() { _, _ = io.WriteString(conn, text) }()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			t.Fatalf("%d bytes came back as %q: %v", len(text), got, err)
		}
	}
	if conn.RemoteAddr().String() != "n1" {
		t.Errorf("it is to %v", conn.RemoteAddr())
	}
	if err := conn.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	<-ended
	for range 2 {
		conn.Close()
	}
	if conn, err = stream(t.Context(), agent, "n1", "/csi/echo"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-ended
	if _, err := stream(t.Context(), agent, "n1", "/csi/none"); err == nil || err.Error() != "no such driver" {
		t.Errorf("a refusal: %v", err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := stream(bounded, agent, "n1", "/csi/silent"); err == nil {
		t.Error("nobody answers, and it is open")
	}
	if _, err := DialController(t.Context(), nil, "n1", "echo"); err == nil ||
		err.Error() != "cannot reach the controller of CSI driver echo: the agent of node n1 has no connection to this server" {
		t.Errorf("without a connection: %v", err)
	}
}
