package faults

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lockstep/lab"
	"lockstep/lab/image"
)

const (
	slowName = "slow.example" // the registry's, in images
	slowPort = 5001
	slowRate = 2 << 20 // bytes a second, of each blob
	ballast  = 4 << 20 // what makes an image large
)

// slowRegistry serves images to the lab's nodes at a trickle, from the hub's address.
type slowRegistry struct {
	push string // where to push to, at full speed

	mu      sync.Mutex
	pulling chan struct{} // closed when the next blob begins to be sent; nil: nobody asks
}

func newSlowRegistry(t *testing.T, l *lab.Lab) *slowRegistry {
	t.Helper()
	r := &slowRegistry{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	fast := httptest.NewServer(handler)
	t.Cleanup(fast.Close)
	r.push = strings.TrimPrefix(fast.URL, "http://")
	hub, err := l.Host(lab.Hub)
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	if err := hub.Do(func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", lab.HubAddr, slowPort))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slow := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			w = &trickle{ResponseWriter: w, begun: r.begun}
		}
		handler.ServeHTTP(w, q)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = slow.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = slow.Close()
		<-served
	})
	url := fmt.Sprintf("http://%s:%d", lab.HubAddr, slowPort)
	for _, h := range l.Agents() {
		dir := filepath.Join(h.Dir, "certs.d", slowName)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		hosts := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// add makes an image that nobody has yet, and returns its name and what is closed when somebody gets its large blob.
func (r *slowRegistry) add(t *testing.T, tag string) (string, <-chan struct{}) {
	t.Helper()
	program, err := image.Program(load, "/load")
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, ballast)
	_, _ = rand.Read(random)
	img, err := image.Image{Files: []image.File{program, {Path: "/ballast", Data: random}}, Entrypoint: []string{"/load"}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(r.push+"/load:"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	pulling := make(chan struct{})
	r.mu.Lock()
	r.pulling = pulling
	r.mu.Unlock()
	return slowName + "/load:" + tag, pulling
}

func (r *slowRegistry) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling != nil {
		close(r.pulling)
		r.pulling = nil
	}
}

// trickle sends large bodies slowly.
type trickle struct {
	http.ResponseWriter
	begun func()
	sent  int
}

const atOnce = 64 << 10

func (w *trickle) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		m, err := w.ResponseWriter.Write(p[n:min(n+atOnce, len(p))])
		n += m
		if err != nil {
			return n, err
		}
		if w.sent += m; w.sent > atOnce {
			w.begun()
			time.Sleep(time.Duration(m) * time.Second / slowRate)
		}
	}
	return len(p), nil
}
