package register

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/nodeagent/servers"
)

// wire is a server behind connections that can be cut: what is sent then is lost, nobody is told, and connections that
// were cut stay so.
type wire struct {
	net.Listener
	mu    sync.Mutex
	cut   bool
	lost  []net.Conn
	alive map[*wired]bool
	calls atomic.Int64
}

type wired struct {
	net.Conn
	w    *wire
	dead atomic.Bool
}

func (w *wire) Accept() (net.Conn, error) {
	for {
		c, err := w.Listener.Accept()
		if err != nil {
			return nil, err
		}
		w.calls.Add(1)
		w.mu.Lock()
		if w.cut {
			w.lost = append(w.lost, c)
			w.mu.Unlock()
			continue
		}
		conn := &wired{Conn: c, w: w}
		w.alive[conn] = true
		w.mu.Unlock()
		return conn, nil
	}
}

func (c *wired) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.dead.Load() {
			return n, err
		}
	}
}

func (c *wired) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.alive {
		c.dead.Store(true)
	}
	clear(w.alive)
	for _, c := range w.lost {
		c.Close()
	}
	w.lost = nil
}

// linked is a link over a wire to a server that answers "yes".
func linked(t *testing.T) (*Link, *wire) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "yes, by "+r.Proto)
	}))
	w := &wire{Listener: server.Listener, alive: map[*wired]bool{}}
	server.Listener, server.EnableHTTP2 = w, true
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(func() { w.set(false) })
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, caFile), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Identity{Server: server.URL, Node: "n1", Dir: dir}.link(200*time.Millisecond, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Reset)
	return l, w
}

func get(ctx context.Context, l *Link) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.id.Server, nil)
	if err != nil {
		return err
	}
	res, err := l.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && string(body) != "yes, by HTTP/2.0" {
		err = errors.New("it says " + string(body))
	}
	return err
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestLinkLeavesDeadConnections(t *testing.T) {
	l, w := linked(t)
	if err := get(soon(t), l); err != nil {
		t.Fatal(err)
	}
	w.set(true)
	if err := get(soon(t), l); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on a connection that is dead: %v", err)
	}
	w.set(false)
	if err := get(soon(t), l); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	before := w.calls.Load()
	l.Reset()
	if err := get(soon(t), l); err != nil || w.calls.Load() == before {
		t.Errorf("after Reset: %v, %d new connections", err, w.calls.Load()-before)
	}
}

func TestLinkWaits(t *testing.T) {
	l, w := linked(t)
	w.set(true)
	const most = 50
	ended := make(chan error, most)
	for range most {
		go func() { ended <- get(t.Context(), l) }()
	}
	gone, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() { given <- get(gone, l) }()
	hurried, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	if err := get(hurried, l); err == nil {
		t.Error("a request with a deadline was answered by nobody")
	}
	cancel()
	select {
	case err := <-given:
		if err == nil {
			t.Error("a request that was given up was answered")
		}
	case <-time.After(20 * time.Second):
		t.Error("a request that was given up waits")
	}
	w.set(false)
	for range most {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("a request without a deadline failed: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("requests wait although the server is there")
		}
	}
}

// TestLinkAsksOnce counts how often many who wait for a server ask for it.
func TestLinkAsksOnce(t *testing.T) {
	l, _ := linked(t)
	var calls atomic.Int64
	l.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		calls.Add(1)
		return nil, errors.New("refused")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	const most, more = 100, 3
	start := time.Now()
	for range most {
		waiting.Go(func() {
			if get(ctx, l) == nil {
				t.Error("nobody answered")
			}
		})
	}
	for deadline := start.Add(20 * time.Second); calls.Load() < most+more && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	n := calls.Load()
	if least, limit := int64(most+more), most+1+int64(time.Since(start)/linkRetry); n < least || n > limit {
		t.Errorf("asked %d times, want %d to %d", n, least, limit)
	}
	cancel()
	waiting.Wait()
}

// another is one more server behind a wire, of the same authority as that of linked, which says who it is.
func another(t *testing.T, name string, ready *atomic.Bool) (string, *wire) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/readyz" && !ready.Load():
			http.Error(w, "[-]etcd failed: it has no quorum", http.StatusServiceUnavailable)
		case r.URL.Path == "/watch":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, name)
		}
	}))
	w := &wire{Listener: server.Listener, alive: map[*wired]bool{}}
	server.Listener, server.EnableHTTP2 = w, true
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(func() { w.set(false) })
	return server.URL, w
}

// TestLinkMoves: a node leaves a server that was cut off, and one that says that it cannot serve, within 3 s: what is open ends, who
// waits is answered by the other, and requests need not know.
func TestLinkMoves(t *testing.T) {
	const promised = 3 * time.Second
	issuer := httptest.NewTLSServer(nil)
	defer issuer.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, caFile), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	var ready [2]atomic.Bool
	urls, wires := [2]string{}, [2]*wire{}
	for i := range urls {
		ready[i].Store(true)
		urls[i], wires[i] = another(t, string(rune('a'+i)), &ready[i])
	}
	l, err := Identity{Server: "https://never.example:6443", Node: "n1", Dir: dir}.Link()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Reset)
	l.Servers = servers.New(servers.Options{Node: "n1", Seeds: urls[:], File: filepath.Join(dir, "servers")})
	ctx, end := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Servers.Run(ctx, l) })
	defer running.Wait()
	defer end()
	at := func() int { return slices.Index(urls[:], l.Servers.Current()) }
	ask := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://never.example:6443/who", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := l.RoundTrip(req)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return string(text)
	}
	watch := func() (ended chan error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://never.example:6443/watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := l.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		ended = make(chan error, 1)
		running.Go(func() {
			_, err := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			ended <- err
		})
		return ended
	}
	for _, fault := range []string{"cut", "unready"} {
		before := at()
		if got, want := ask(), string(rune('a'+before)); got != want {
			t.Fatalf("%s answers, want %s", got, want)
		}
		ended := watch()
		began := time.Now()
		if fault == "cut" {
			wires[before].set(true)
		} else {
			ready[before].Store(false)
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: a watch goes on", fault)
		}
		got, took := ask(), time.Since(began)
		if want := string(rune('a' + 1 - before)); got != want || at() == before || took > promised {
			t.Errorf("%s: %s answers after %v, want %s within %v", fault, got, took, want, promised)
		}
		t.Logf("%s: another server answered after %v", fault, took)
		wires[before].set(false)
		ready[before].Store(true)
	}
}
