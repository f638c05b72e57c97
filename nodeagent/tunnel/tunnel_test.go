package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	apitunnel "lockstep/daemon/api/tunnel"
	"lockstep/internal/eventually"
	"lockstep/internal/locked"
)

// server is an API server with a pool, over TLS with both HTTP versions, as the real one.
func server(t *testing.T, pool *apitunnel.Pool) (*httptest.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pool.Accept(w, r, "node-1")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, &tls.Config{RootCAs: roots}
}

func get(rt http.RoundTripper, path string) (string, error) {
	if rt == nil {
		return "", errors.New("no transport")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://node-1:80"+path, nil)
	if err != nil {
		return "", err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func TestRequestsReachTheAgent(t *testing.T) {
	pool := &apitunnel.Pool{}
	s, config := server(t, pool)
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		dial := NewLine(s.Listener.Addr().String, always(config)).Dial
		_ = Serve(ctx, slog.Default(), dial, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s over %s", r.URL.Path, r.Proto)
		}))
	})
	eventually.True(t, 10*time.Second, "the agent is connected", func() bool { return pool.Transport("node-1") != nil })
	if pool.Transport("node-2") != nil {
		t.Error("a node without a connection has a transport")
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			want := fmt.Sprintf("/p%d over HTTP/2.0", i)
			if got, err := get(pool.Transport("node-1"), fmt.Sprintf("/p%d", i)); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
	all.Wait()
	cancel()
	served.Wait()
	eventually.True(t, 10*time.Second, "the pool has forgotten it", func() bool {
		return pool.Transport("node-1") == nil && len(pool.Since()) == 0
	})
	pool.Close()
}

func TestStreamEndsWithItsConnection(t *testing.T) {
	pool := &apitunnel.Pool{}
	s, config := server(t, pool)
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	gone := make(chan struct{})
	var conns []net.Conn
	var mu sync.Mutex
	dial := NewLine(s.Listener.Addr().String, always(config)).Dial
	served.Go(func() {
		_ = Serve(ctx, slog.Default(), func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx)
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			return conn, err
		}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ok" {
				fmt.Fprint(w, "ok")
				return
			}
			fmt.Fprint(w, "begin ")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(gone)
		}))
	})
	eventually.True(t, 10*time.Second, "the agent is connected", func() bool { return pool.Transport("node-1") != nil })
	result := make(chan error, 1)
	go func() {
		_, err := get(pool.Transport("node-1"), "/follow")
		result <- err
	}()
	time.Sleep(50 * time.Millisecond)
	mu.Lock()
	conns[0].(*tls.Conn).NetConn().Close() // the network, not a goodbye
	mu.Unlock()
	if err := <-result; err == nil {
		t.Error("a stream over a connection that broke ended well")
	}
	<-gone
	eventually.True(t, 10*time.Second, "the agent is connected again", func() bool {
		body, err := get(pool.Transport("node-1"), "/ok")
		return err == nil && body == "ok"
	})
	cancel()
	served.Wait()
	pool.Close()
}

func TestNewestConnectionWins(t *testing.T) {
	pool := &apitunnel.Pool{}
	s, config := server(t, pool)
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var served sync.WaitGroup
	named := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) })
	}
	dial := NewLine(s.Listener.Addr().String, always(config)).Dial
	first, err := open(ctx, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	served.Go(func() { _ = Serve(ctx, slog.Default(), dial, named("second")) })
	eventually.True(t, 10*time.Second, "the second answers", func() bool {
		body, err := get(pool.Transport("node-1"), "/")
		return err == nil && body == "second"
	})
	_ = first.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, first); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Error("the first connection is still open")
	}
	cancel()
	served.Wait()
	pool.Close()
}

// TestSilentServer: a server that answers no ping loses its tunnel, and nobody is told but who reads debug lines.
func TestSilentServer(t *testing.T) {
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // an empty frame of them
	opened := make(chan struct{}, 10)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n%s", protocol,
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings)
		opened <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	var lines locked.Buffer
	log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		_ = Serve(ctx, log, NewLine(s.Listener.Addr().String, always(&tls.Config{RootCAs: roots})).Dial, http.NotFoundHandler())
	})
	for range 2 {
		select {
		case <-opened:
		case <-time.After(60 * time.Second):
			t.Fatal("no tunnel is opened")
		}
	}
	cancel()
	served.Wait()
	text := lines.String()
	if !strings.Contains(text, "PING") {
		t.Errorf("the log does not tell why the tunnel ended:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "level=DEBUG") {
			t.Errorf("logged: %s", line)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestRefusals(t *testing.T) {
	pool := &apitunnel.Pool{}
	w := httptest.NewRecorder()
	pool.Accept(w, httptest.NewRequest("GET", path, nil), "node-1")
	if w.Code != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: got %d", w.Code)
	}
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	_, err := open(context.Background(), NewLine(s.Listener.Addr().String, always(&tls.Config{RootCAs: roots})).Dial)
	if err == nil || err.Error() != "cannot open a tunnel: the server answers 404 Not Found" {
		t.Errorf("got %v", err)
	}
}

// always is the same configuration for each connection.
func always(config *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return config, nil }
}
