package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"lockstep/daemon/api/tunnel"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/store"
)

// ends waits until a watch ends and returns what it said meanwhile.
func ends(t *testing.T, w watch.Interface) []watch.Event {
	t.Helper()
	var out []watch.Event
	late := time.After(30 * time.Second)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return out
			}
			out = append(out, e)
		case <-late:
			t.Fatal("the watch goes on")
		}
	}
}

func (s *testServer) remove(o kinds.Object) store.Write {
	return store.Write{Key: kinds.KeyOf(o), If: store.Anyway, Reason: "test"}
}

// TestWatchEndsWithItsPod: a node that watches what its pod refers to sees nothing of it when the pod is gone, also not
// what was written in the same moment.
func TestWatchEndsWithItsPod(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.node("n1")).CoreV1()
	one := metav1.ListOptions{FieldSelector: "metadata.name=cart-1-a"}
	secrets, err := c.Secrets("shop").Watch(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secrets.Stop)
	maps, err := c.ConfigMaps("shop").Watch(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(maps.Stop)
	nodes, err := c.Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Stop)
	expect(t, "the secret", take(t, secrets, 1), "ADDED cart-1-a")
	next := &corev1.Secret{ObjectMeta: named("shop", "cart-1-a"), Data: map[string][]byte{"password": []byte("canary-next")}}
	s.commit(s.remove(testPod("shop", "cart-1-a", "n1")), put(next))
	for what, w := range map[string]watch.Interface{"secret": secrets, "map": maps} {
		for _, e := range ends(t, w) {
			if o, ok := e.Object.(*corev1.Secret); ok && strings.Contains(string(o.Data["password"]), "next") {
				t.Errorf("the watch of the %s shows what was written after its pod", what)
			}
		}
	}
	s.put(testNode("n9"))
	expect(t, "the nodes", take(t, nodes, 3), "ADDED n1", "ADDED n2", "ADDED n9")
}

// TestWatchEndsWithItsToken: also one that nothing happens in.
func TestWatchEndsWithItsToken(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	tokens := pki.Tokens{Store: s.store, Commit: s.store}
	var watches []watch.Interface
	var made []pki.Token
	for range 2 {
		token, err := tokens.Create(t.Context(), pki.TokenOptions{Usages: []string{pki.UsageView}})
		if err != nil {
			t.Fatal(err)
		}
		config := &rest.Config{
			Host:            "https://" + s.address,
			BearerToken:     token.Bearer(),
			TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM()},
		}
		w, err := client(t, config).CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		take(t, w, 2)
		watches, made = append(watches, w), append(made, token)
	}
	if err := tokens.Delete(t.Context(), made[0].ID); err != nil {
		t.Fatal(err)
	}
	ends(t, watches[0])
	s.put(testPod("shop", "more", "n1"))
	expect(t, "the other token's", take(t, watches[1], 1), "ADDED more")
}

// TestRemovedNode: its watches, its tunnel and its connections end at once, and it is asked to come no more.
func TestRemovedNode(t *testing.T) {
	pool := &tunnel.Pool{}
	defer pool.Close()
	s := newTestServer(t, pool, testCluster()...)
	one, other := client(t, s.node("n1")).CoreV1(), client(t, s.node("n2")).CoreV1()
	w, err := one.Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	theirs, err := other.Services("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Stop)
	take(t, theirs, 1)
	open := s.openTunnel("n1")
	idle := s.dial("n1")
	if _, err := fmt.Fprint(idle, "GET /api/v1/nodes/n1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.server.joins.Remove(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	ends(t, w)
	for what, c := range map[string]io.Reader{"tunnel": open, "connection": idle} {
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("the %s stays open", what)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := one.Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("the removed node asks: %v", err)
	}
	code, body := s.ask(s.node("n1"), http.MethodPost, rights.RenewPath, `{"csr":"x"}`)
	if code != http.StatusUnauthorized || !strings.Contains(body, "removed") {
		t.Errorf("the removed node renews: %d %s", code, body)
	}
	if _, err := other.Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the removed node's object: %v", err)
	}
	s.put(&corev1.Service{ObjectMeta: named("shop", "more")})
	expect(t, "another node's watch", take(t, theirs, 1), "ADDED more")
	for late := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		known := map[string]int{}
		s.server.conns.mu.Lock()
		for _, id := range s.server.conns.all {
			known[id.Node]++
		}
		s.server.conns.mu.Unlock()
		if known["n1"] == 0 && known["n2"] > 0 {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the connections that are known: %v", known)
		}
	}
}

// dial opens a connection with a node's certificate that gives up reading after a while.
func (s *testServer) dial(node string) *tls.Conn {
	s.t.Helper()
	config := s.node(node).TLSClientConfig
	cert, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CAData)
	c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

// openTunnel asks for a tunnel and returns its connection once the server has taken it over.
func (s *testServer) openTunnel(node string) io.Reader {
	s.t.Helper()
	c := s.dial(node)
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", rights.TunnelPath,
		tunnel.Protocol); err != nil {
		s.t.Fatal(err)
	}
	answer := make([]byte, len("HTTP/1.1 101"))
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "HTTP/1.1 101" {
		s.t.Fatalf("the tunnel is answered %q, %v", answer, err)
	}
	return c
}

// TestClosedConnectionsAreForgotten: a request over HTTP/2 may be looked at when its connection is closed already.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	c := newConns()
	one, other := net.Pipe()
	defer other.Close()
	ctx, cancel := context.WithCancel(c.context(t.Context(), one))
	if !c.know(ctx, identity{}) || c.know(ctx, identity{}) || len(c.all) != 1 {
		t.Errorf("known: %v", c.all)
	}
	cancel()
	c.state(one, http.StateClosed)
	c.know(ctx, identity{})
	if len(c.all) != 0 {
		t.Error("a connection that was closed is kept for ever")
	}
}

// count is how many requests that live long are under way.
func (s *stays) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// TestSilentClient has a client say no word after it has begun, as one whose machine has lost its power: what it held ends soon.
func TestSilentClient(t *testing.T) {
	s := newTestServer(t, nil)
	s.opts.Silence = 100 * time.Millisecond
	s.restart()
	config, err := rest.TLSConfigFor(s.viewer())
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // none
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("its connection has not ended")
	}
}
