package reading

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lockstep/lab"
)

// resident is the daemon's memory in MiB.
func resident(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cluster.lab.Server().PID(lab.Daemon)))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(text, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// TestHostileRequests asks what no friendly client asks; the server says what is wrong and goes on.
func TestHostileRequests(t *testing.T) {
	settled(t)
	before, pid := resident(t), cluster.lab.Server().PID(lab.Daemon)
	viewer, err := rest.HTTPClientFor(cluster.config)
	if err != nil {
		t.Fatal(err)
	}
	viewer.Timeout = patience
	node, err := rest.HTTPClientFor(certificate(t, cluster.lab.Agents()[0]))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 100_000)
	const pods = "/api/v1/pods?"
	for _, c := range []struct {
		query string
		want  int
	}{
		{pods + "labelSelector=%3D%3D", 400}, {pods + "labelSelector=a%20in%20(", 400},
		{pods + "labelSelector=" + url.QueryEscape(strings.Repeat("(", 5000)), 400},
		{pods + "labelSelector=" + long, 413}, {pods + "fieldSelector=" + long, 413}, {pods + "fieldSelector=spec.nodeName", 400},
		{pods + "fieldSelector=spec.rubbish%3D1", 400}, {pods + "labelSelector=a%00b", 400}, {pods + "labelSelector=%ff%fe", 400},
		{pods + "limit=9223372036854775807", 200}, {pods + "limit=-1", 200}, {pods + "limit=x", 400},
		{pods + "limit=99999999999999999999", 400},
		{pods + "continue=rubbish", 400}, {pods + "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi8ifQ", 400},
		{pods + "limit=1&continue=" + long, 413},
		{pods + "resourceVersion=x", 400}, {pods + "resourceVersion=-1", 400}, {pods + "resourceVersion=9223372036854775808", 400},
		{pods + "resourceVersion=1&resourceVersionMatch=Exact", 410}, {pods + "resourceVersionMatch=Exact", 422},
		{pods + "watch=maybe&timeoutSeconds=1", 200}, {pods + "watch=true&sendInitialEvents=true", 422},
		{pods + "watch=true&resourceVersion=x", 400},
		{pods + "watch=true&timeoutSeconds=x", 400}, {pods + "watch=true&timeoutSeconds=1", 200},
		{"/api/v1/namespaces/..%2f..%2fetc/pods", 403}, {"/api/v1/namespaces//pods", 404}, {"/api/v1/" + long, 413},
		{"/apis/a/b/c/d/e/f/g/h", 403},
		{"/api/v1/namespaces/shop/pods/%2e%2e/log", 404}, {"/api/v1/namespaces/shop/pods/cart-1-a/log?tailLines=-1", 422},
		{"/api/v1/namespaces/shop/pods/cart-1-a/log?tailLines=9223372036854775807", 200},
		{"/api/v1/namespaces/shop/pods/cart-1-a/log?limitBytes=0", 422},
	} {
		response, err := viewer.Get(cluster.config.Host + c.query)
		if err != nil {
			t.Errorf("%.80s: %v", c.query, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%.80s: %d, want %d", c.query, response.StatusCode, c.want)
		}
	}
	for _, c := range []struct {
		who          *http.Client
		method, path string
		size         int64
		want         int
	}{
		{viewer, "POST", "/api/v1/namespaces/shop/pods", 64 << 20, 405},
		{node, "POST", "/api/v1/namespaces/shop/events", 64 << 20, 413},
		{node, "PATCH", "/api/v1/nodes/" + one + "/status", 64 << 20, 413},
		{node, "POST", "/lockstep/v1/renew", 64 << 20, 400},
		{viewer, "POST", "/lockstep/v1/join", 64 << 20, 400},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, cluster.config.Host+c.path, io.LimitReader(spaces{}, c.size))
		if err != nil {
			t.Fatal(err)
		}
		request.ContentLength = c.size
		request.Header.Set("Content-Type", "application/json")
		if c.method == "PATCH" {
			request.Header.Set("Content-Type", "application/merge-patch+json")
		}
		response, err := c.who.Do(request)
		if err != nil {
			t.Logf("%s %s: %v", c.method, c.path, err) // the answer may come while the body is still being sent
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s %s with %d bytes: %d, want %d", c.method, c.path, c.size, response.StatusCode, c.want)
		}
	}
	slowHeads(t, viewer)
	if now := cluster.lab.Server().PID(lab.Daemon); now != pid || pid == 0 {
		t.Fatalf("the daemon is process %d, was %d", now, pid)
	}
	if after := resident(t); after > before+64 {
		t.Errorf("the daemon grew from %d to %d MiB", before, after)
	}
}

// spaces has no end.
type spaces struct{}

// Read implements io.Reader.
func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// slowHeads begins requests and never ends them: others are answered, and the connections are closed.
func slowHeads(t *testing.T, viewer *http.Client) {
	t.Helper()
	address := strings.TrimPrefix(cluster.config.Host, "https://")
	config, err := rest.TLSConfigFor(&rest.Config{
		TLSClientConfig: rest.TLSClientConfig{CAData: cluster.config.CAData, ServerName: "127.0.0.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var slow []*tls.Conn
	for range 200 {
		c, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	response, err := viewer.Get(cluster.config.Host + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	end := time.Now().Add(patience)
	for _, c := range slow {
		_ = c.SetReadDeadline(end)
		if _, err := io.Copy(io.Discard, c); err != nil && time.Now().After(end) {
			t.Fatal("a connection is kept for a request that does not come")
		}
	}
}

// TestThousandWatches has a rollout seen by a thousand watchers.
func TestThousandWatches(t *testing.T) {
	settled(t)
	const watches, connections = 1000, 10
	before := resident(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var clients []*kubernetes.Clientset
	for i := range connections {
		config := rest.CopyConfig(cluster.config)
		config.UserAgent = fmt.Sprint("watcher ", i)
		config.Dial = nil
		// A configuration that differs does not share its connection.
		config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
		c, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	list, err := clients[0].CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var begun, done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for i := range watches {
		g.Go(func() error {
			w, err := clients[i%connections].CoreV1().Pods("shop").Watch(ctx, metav1.ListOptions{
				ResourceVersion: list.ResourceVersion,
				LabelSelector:   "app=cart",
			})
			if err != nil {
				return err
			}
			defer w.Stop()
			begun.Add(1)
			for added := 0; added < 10; {
				select {
				case e, ok := <-w.ResultChan():
					if !ok {
						return fmt.Errorf("a watch ended after %d pods", added)
					}
					if e.Type == watch.Added {
						added++
					}
				case <-ctx.Done():
					return fmt.Errorf("a watch saw %d pods only", added)
				}
			}
			done.Add(1)
			return nil
		})
	}
	until(t, "all watch", func() error {
		if n := begun.Load(); n < watches && ctx.Err() == nil {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	if err := cluster.push(ctx, objects(12)); err != nil {
		t.Error(err)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if after := resident(t); after > before+256 {
		t.Errorf("with %d watches the daemon grew from %d to %d MiB", watches, before, after)
	} else {
		t.Logf("with %d watches the daemon grew from %d to %d MiB", watches, before, after)
	}
	if err := cluster.push(t.Context(), objects(2)); err != nil {
		t.Fatal(err)
	}
	settled(t)
}
