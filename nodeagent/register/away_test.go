package register

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/connrotation"

	"lockstep/internal/short"
	"lockstep/nodeagent/client"
)

// far is a server at the other end of a network that can be cut, in fake time.
type far struct {
	wire
	accepted chan net.Conn
	closed   chan struct{}
}

func (f *far) Accept() (net.Conn, error) {
	select {
	case c := <-f.accepted:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

func (f *far) Close() error {
	close(f.closed)
	return nil
}

func (f *far) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6443} }

func (f *far) away() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut
}

// dial sends SYNs as Linux does: at once, after 1 s, and then at intervals that double.
func (f *far) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for pause := time.Second; f.away(); pause *= 2 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	near, other := net.Pipe()
	f.mu.Lock()
	conn := &wired{Conn: other, w: &f.wire}
	f.alive[conn] = true
	f.mu.Unlock()
	f.accepted <- conn
	return near, nil
}

// firsts has when the node was first heard of, by path.
type firsts struct {
	mu sync.Mutex
	at map[string]time.Time
}

// ServeHTTP answers as an API server that has not heard of the node's state.
func (f *firsts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if _, ok := f.at[r.Method+r.URL.Path]; !ok {
		f.at[r.Method+r.URL.Path] = time.Now()
	}
	f.mu.Unlock()
	n := Node("n1", nil, nil)
	n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(n)
}

func (f *firsts) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = map[string]time.Time{}
}

// TestBackAfterCut: however long the network was away, the node reports within 3 s of its return; at once, when anybody else
// has been answered.
func TestBackAfterCut(t *testing.T) {
	const promised, atOnce = 3 * time.Second, answeredPause + 10*time.Millisecond
	issuer := httptest.NewTLSServer(nil)
	defer issuer.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, caFile), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, length := range []time.Duration{20 * time.Second, 40 * time.Second, 2 * time.Minute, 10 * time.Minute} {
		worst := time.Duration(0)
		for phase := range short.Of(40) {
			synctest.Test(t, func(t *testing.T) {
				heard := &firsts{at: map[string]time.Time{}}
				f := &far{wire: wire{alive: map[*wired]bool{}}, accepted: make(chan net.Conn), closed: make(chan struct{})}
				server := &http.Server{Handler: heard, TLSConfig: &tls.Config{Certificates: issuer.TLS.Certificates}}
				l, err := Identity{Server: "https://example.com", Node: "n1", Dir: dir}.Link()
				if err != nil {
					t.Fatal(err)
				}
				l.dialer = connrotation.NewDialer(f.dial)
				l.transport.DialContext = l.dialer.DialContext
				api, err := client.New(l.Config())
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				r := &Reporter{Client: api, Name: "n1", Log: slog.New(slog.DiscardHandler), Answered: l.Answered,
					State: func(context.Context) State { return State{} }}
				var running sync.WaitGroup
				running.Go(func() { _ = server.ServeTLS(f, "", "") })
				running.Go(func() { _ = r.Run(ctx) })
				time.Sleep(25*time.Second + time.Duration(phase)*heartbeat/40)
				f.set(true)
				var watched time.Time
				if phase%2 == 0 {
					running.Go(func() {
						_, _ = api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
						watched = time.Now()
					})
				}
				time.Sleep(length)
				heard.forget()
				f.set(false)
				healed := time.Now()
				time.Sleep(time.Minute)
				stop()
				_ = server.Close()
				l.Reset()
				running.Wait()
				for _, path := range []string{"/api/v1/nodes/n1/status",
					"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"} {
					at, ok := heard.at[http.MethodPut+path]
					after := at.Sub(healed)
					worst = max(worst, after)
					if !ok || after > promised || watched.After(healed) && at.Sub(watched) > atOnce {
						t.Errorf("cut for %s: %s after %s, %v; somebody was answered after %s", length, path, after, ok,
							watched.Sub(healed))
					}
				}
			})
		}
		t.Logf("cut for %s: the node was heard of after %s at most", length, worst)
	}
}
