package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lockstep/daemon/pki"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/memory"
)

// testServer is an API server on loopback over a store in memory.
type testServer struct {
	nodes     map[string]*rest.Config
	t         testing.TB
	store     *memory.Store
	authority *pki.Authority
	address   string
	opts      Options
	stop      func()
	server    *Server
}

func newTestServer(t testing.TB, tunnels Tunnels, objects ...kinds.Object) *testServer {
	t.Helper()
	authority, err := pki.Open(pki.Dir(t.TempDir()), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{t: t, store: memory.NewWith(memory.Options{Default: strategy.Default}), authority: authority}
	s.put(objects...)
	registry := prometheus.NewRegistry()
	s.opts = Options{
		Store: s.store, Authority: authority, Hosts: []string{"127.0.0.1"}, Tunnels: tunnels, Gatherer: registry,
		Registerer: registry, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Version: "test",
	}
	s.start("127.0.0.1:0")
	t.Cleanup(func() { s.stop() })
	return s
}

// start serves on an address until stop.
func (s *testServer) start(address string) {
	s.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.server = New(s.opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := s.server
	go func() { done <- server.Serve(ctx, listener) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Serve = %v", err)
		}
	})
	wait, cancelWait := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancelWait()
	if _, err := s.server.hub.Wait(wait, s.store.View().Revision()); err != nil {
		s.t.Fatal(err)
	}
}

// restart stops the server and starts another one over the same store, at the same address.
func (s *testServer) restart() {
	s.t.Helper()
	s.stop()
	s.opts.Registerer = nil
	s.start(s.address)
}

// put creates objects, each in a revision of its own.
func (s *testServer) put(objects ...kinds.Object) {
	s.t.Helper()
	for _, o := range objects {
		s.commit(store.Write{Key: kinds.KeyOf(o), Object: o, If: store.Anyway, Reason: "test"})
	}
}

// commit writes a group, which is one revision.
func (s *testServer) commit(writes ...store.Write) int64 {
	s.t.Helper()
	r := s.store.Commit(s.t.Context(), store.Group(writes))[0]
	if r.Err != nil {
		s.t.Fatal(r.Err)
	}
	return r.Revision
}

// viewer is a client configuration of somebody who reads.
func (s *testServer) viewer() *rest.Config {
	s.t.Helper()
	cert, key, err := s.authority.Viewer("alice", 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.config(cert, key)
}

// user is a client configuration of somebody who may what bindings grant.
func (s *testServer) user(name string, groups ...string) *rest.Config {
	s.t.Helper()
	cert, key, err := s.authority.User(name, groups, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.config(cert, key)
}

// binding grants a cluster role: in a namespace, or everywhere.
func binding(namespace, name, role string, to ...rbacv1.Subject) kinds.Object {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	if namespace == "" {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: named("", name), RoleRef: ref, Subjects: to}
	}
	return &rbacv1.RoleBinding{ObjectMeta: named(namespace, name), RoleRef: ref, Subjects: to}
}

// node is a client configuration with a node's certificate, the same for a name each time.
func (s *testServer) node(name string) *rest.Config {
	s.t.Helper()
	if known := s.nodes[name]; known != nil {
		return known
	}
	key, csr := keyAndRequest(s.t)
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := s.authority.SignNode(parsed, name)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.nodes == nil {
		s.nodes = map[string]*rest.Config{}
	}
	s.nodes[name] = s.config(cert, key)
	return s.nodes[name]
}

func (s *testServer) config(cert, key []byte) *rest.Config {
	return &rest.Config{
		Host: "https://" + s.address, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM(), CertData: cert, KeyData: key},
	}
}

func client(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// keyAndRequest makes a key in PEM and a certificate request in DER.
func keyAndRequest(t testing.TB) (keyPEM, csr []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), csr
}

// testWriter writes the server's log to the test's; late lines are dropped.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(line []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(string(line))
	}
	return len(line), nil
}
