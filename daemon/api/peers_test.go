package api

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"lockstep/daemon/api/peers"
	"lockstep/daemon/api/tunnel"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/store"
)

// atDoor asks a server for the nodes that it has, over a connection of this configuration.
func (s *testServer) atDoor(conf *tls.Config, path string) (int, string) {
	s.t.Helper()
	conf = conf.Clone()
	conf.RootCAs, conf.InsecureSkipVerify, conf.VerifyConnection = s.authority.Pool(), false, nil // who asks does not judge the door
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := client.Get("https://" + s.address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(text)
}

func (s *testServer) announced(name string) kinds.Object {
	now := time.Now()
	return apiservers.Lease(nil, name, netip.MustParseAddrPort("192.0.2.7:6443"), now, now)
}

func certificateOf(t *testing.T, config *rest.Config) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// TestStolenAtTheServersDoor: only a server of the cluster that was not removed asks another one for what agents answer, and it asks for
// nothing else; each other identity is told why not.
func TestStolenAtTheServersDoor(t *testing.T) {
	pool := &tunnel.Pool{}
	s := newTestServer(t, pool, testCluster()...)
	vault := pki.Dir(t.TempDir())
	past, err := pki.Open(vault, pki.Options{Now: func() time.Time { return time.Now().Add(-100 * 24 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if s.authority, err = pki.Open(vault, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	s.opts.Authority = s.authority
	door := peers.New(peers.Options{
		Own: pool, Others: func() []peers.Server { return nil }, TLS: s.authority.PeerConfig("s1"), Log: s.opts.Log,
	})
	s.opts.Tunnels, s.opts.Peers = door, door.Door()
	s.restart()
	s.put(s.announced("s1"), s.announced("s2"))

	foreign, err := pki.Open(pki.Dir(t.TempDir()), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	serving, err := s.authority.Server([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	nodes := rights.PeersPath + "nodes"
	for _, c := range []struct {
		who  string
		conf *tls.Config
		path string
		code int // 0: the connection is refused
		says string
	}{
		{"another server", s.authority.PeerConfig("s2"), nodes, 200, "{}"},
		{"nobody", &tls.Config{}, nodes, 401, "Unauthorized"},
		{"a node", certificateOf(t, s.node("n1")), nodes, 403, "only a server of this cluster may"},
		{"a node, for another node's agent", certificateOf(t, s.node("n1")), rights.PeersPath + "agents/n2/healthz", 403,
			"only a server of this cluster may"},
		{"a viewer", certificateOf(t, s.viewer()), nodes, 403, ""},
		{"a server that was never there", s.authority.PeerConfig("s9"), nodes, 401, "server s9 is none of this cluster's, or was removed"},
		{"a server of another cluster", foreign.PeerConfig("s2"), nodes, 0, "unknown certificate authority"},
		{"a server whose certificate has run out", past.PeerConfig("s2"), nodes, 0, "expired certificate"},
		{"by the certificate that a server serves with", &tls.Config{Certificates: []tls.Certificate{serving}}, nodes, 0,
			"bad certificate"},
		{"a server, for a Secret", s.authority.PeerConfig("s2"), "/api/v1/namespaces/shop/secrets/cart-1-a", 403,
			"servers ask each other only for what agents answer"},
		{"a server, for metrics", s.authority.PeerConfig("s2"), "/metrics", 403, "servers ask each other only for what agents answer"},
		{"a server, for a node that has no connection", s.authority.PeerConfig("s2"), rights.PeersPath + "agents/n1/healthz", 421,
			"the agent has no connection to this server"},
	} {
		code, text := s.atDoor(c.conf, c.path)
		if code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %q, want %d %q", c.who, code, text, c.code, c.says)
		}
	}

	// One that is removed is refused from then on.
	s.commit(store.Write{Key: apiservers.Key("s2"), If: store.Anyway, Reason: "removed"})
	code, text := s.atDoor(s.authority.PeerConfig("s2"), nodes)
	if code != 401 || !strings.Contains(text, "s2 is none of this cluster's, or was removed") {
		t.Errorf("a server that was removed: %d %q", code, text)
	}
}

// TestServersRenew: a server makes the certificates that it serves with and asks with anew when a third of their lives is left, while it
// runs.
func TestServersRenew(t *testing.T) {
	now := time.Now()
	short, err := pki.Open(pki.Dir(t.TempDir()), pki.Options{Now: func() time.Time { return now }, ServerLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	conf := short.PeerConfig("s2")
	first, err := conf.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(30 * time.Minute)
	if same, err := conf.GetClientCertificate(nil); err != nil || same != first {
		t.Errorf("half its life over, it is made anew: %v", err)
	}
	now = now.Add(20 * time.Minute)
	if next, err := conf.GetClientCertificate(nil); err != nil || next == first || !next.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("with a third of its life left it is not made anew: %v", err)
	}
	serving, err := short.ServerConfig([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	was, _ := serving.GetCertificate(nil)
	now = now.Add(50 * time.Minute)
	if is, err := serving.GetCertificate(nil); err != nil || !is.Leaf.NotAfter.After(was.Leaf.NotAfter) {
		t.Errorf("what it serves with is not made anew: %v", err)
	}
}
