package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"lockstep/internal/settings"
	"lockstep/store/memory"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, dir string, now func() time.Time) *Authority {
	t.Helper()
	a, err := Open(Dir(dir), Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func newRequest(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func leaf(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	if block == nil {
		t.Fatalf("not PEM: %s", certPEM)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestOpenTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, b := open(t, dir, at(start)), open(t, dir, at(start))
	if a.Pin() != b.Pin() || len(a.Pin()) != 64 || !bytes.Equal(a.PEM(), b.PEM()) {
		t.Error("the authority is another one at the second opening")
	}
	for _, name := range []string{caKeyFile, caCertFile, accountKeyFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("temporary files remain: %v, %v", entries, err)
	}
}

func TestCertificates(t *testing.T) {
	a := open(t, t.TempDir(), at(start))
	server, err := a.Server(ServerHosts(settings.Default(), "192.0.2.7", "host-a"))
	if err != nil {
		t.Fatal(err)
	}
	viewerPEM, _, err := a.Viewer("alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	guestPEM, _, err := a.Viewer("guest", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cert []byte
		want time.Duration
	}{{viewerPEM, ViewerLifetime}, {guestPEM, time.Hour}} {
		if got := leaf(t, c.cert).NotAfter.Sub(start); got != c.want {
			t.Errorf("a viewer's certificate holds for %s, want %s", got, c.want)
		}
	}
	key := newKey(t)
	csr, err := parseRequest(newRequest(t, key))
	if err != nil {
		t.Fatal(err)
	}
	nodePEM, err := a.SignNode(csr, "n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"10.43.0.1", "192.0.2.7", "127.0.0.1", "host-a", "kubernetes.default.svc", "localhost"} {
		if err := server.Leaf.VerifyHostname(host); err != nil {
			t.Errorf("the server's certificate is not for %s: %v", host, err)
		}
	}
	for _, c := range []struct {
		cert       *x509.Certificate
		name, org  string
		usage, not x509.ExtKeyUsage
	}{
		{server.Leaf, "lockstep-server", ServerGroup, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		{leaf(t, viewerPEM), "alice", ViewerGroup, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		{leaf(t, nodePEM), "system:node:n1", NodeGroup, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	} {
		if c.cert.Subject.CommonName != c.name || c.cert.Subject.Organization[0] != c.org {
			t.Errorf("subject %v, want %s of %s", c.cert.Subject, c.name, c.org)
		}
		verify := func(usage x509.ExtKeyUsage) error {
			_, err := c.cert.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{usage}})
			return err
		}
		if err := verify(c.usage); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if verify(c.not) == nil {
			t.Errorf("%s may also be used the other way", c.name)
		}
	}
}

func TestServerRenewsItself(t *testing.T) {
	now := start
	a := open(t, t.TempDir(), func() time.Time { return now })
	config, err := a.ServerConfig([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		cert, err := config.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	now = start.Add(59 * 24 * time.Hour)
	if serial() != first {
		t.Error("the certificate was made anew with more than a third of its life left")
	}
	now = start.Add(61 * 24 * time.Hour)
	if serial() == first {
		t.Error("the certificate was not made anew with less than a third of its life left")
	}
}

func TestTokenText(t *testing.T) {
	token, record := NewToken(TokenOptions{TTL: time.Hour}, start)
	pin := strings.Repeat("ab", 32)
	bearer, found := strings.CutPrefix(token.Text(pin), pin+".")
	if got, err := ParseBearer(bearer); err != nil || got != token || !found {
		t.Errorf("ParseBearer(%q) = %v, %v", bearer, got, err)
	}
	for _, bad := range []string{"", "x", "x.", ".y", "x.y.z"} {
		if _, err := ParseBearer(bad); err == nil {
			t.Errorf("ParseBearer(%q) accepts it", bad)
		}
	}
	for _, c := range []struct {
		secret, usage string
		at            time.Time
		want          bool
	}{
		{token.Secret, UsageJoin, start, true},
		{token.Secret, UsageJoin, start.Add(time.Hour), false},
		{token.Secret, UsageView, start, false},
		{token.Secret + "x", UsageJoin, start, false},
		{"", UsageJoin, start, false},
	} {
		if got := record.Admits(c.secret, c.usage, c.at); got != c.want {
			t.Errorf("Admits(%v) = %v", c, got)
		}
	}
	if strings.Contains(record.Hash, token.Secret) {
		t.Error("the record holds the secret")
	}
}

func TestJoinAndRenew(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	backend := memory.New()
	now := start
	tokens := Tokens{Store: backend, Commit: backend, Now: func() time.Time { return now }}
	a := open(t, t.TempDir(), tokens.Now)
	r := NewRegistrar(a, tokens, RegistrarOptions{})
	token, err := tokens.Create(ctx, TokenOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	mine, other := newKey(t), newKey(t)
	join := func(bearer, node string, key *ecdsa.PrivateKey) ([]byte, error) {
		return r.Join(ctx, bearer, node, newRequest(t, key))
	}
	cert, err := join(token.Bearer(), "n1", mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := join(token.Bearer(), "n1", mine); err != nil {
		t.Errorf("joining again with the same key: %v", err)
	}
	for _, c := range []struct {
		what, bearer, node string
		key                *ecdsa.PrivateKey
		want               error
	}{
		{"a taken name", token.Bearer(), "n1", other, ErrTaken},
		{"a wrong secret", token.ID + ".x", "n2", other, ErrToken},
		{"an unknown token", "x.y", "n2", other, ErrToken},
		{"no token", "", "n2", other, ErrToken},
		{"a bad name", token.Bearer(), "N/2", other, ErrRequest},
	} {
		if _, err := join(c.bearer, c.node, c.key); !errors.Is(err, c.want) || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if _, err := r.Join(ctx, token.Bearer(), "n3", []byte("rubbish")); !errors.Is(err, ErrRequest) {
		t.Errorf("a bad request: %v", err)
	}
	if _, err := r.Renew("n1", leaf(t, cert), newRequest(t, mine)); err != nil {
		t.Errorf("renewing: %v", err)
	}
	if _, err := r.Renew("n1", leaf(t, cert), newRequest(t, other)); !errors.Is(err, ErrTaken) {
		t.Errorf("renewing with another key: %v", err)
	}
	now = start.Add(2 * time.Hour)
	if _, err := join(token.Bearer(), "n2", other); !errors.Is(err, ErrToken) {
		t.Errorf("an expired token: %v", err)
	}
	fresh, err := tokens.Create(ctx, TokenOptions{Usages: []string{UsageView}})
	if err != nil {
		t.Fatal(err)
	}
	if left := maps.Collect(tokens.All()); len(left) != 1 || left[fresh.ID].Usages[0] != UsageView {
		t.Errorf("creating a token left %v, want it alone, since the other has expired", left)
	}
	if err := tokens.Delete(ctx, fresh.ID); err != nil {
		t.Error(err)
	}
	if _, err := tokens.Check(fresh, UsageView); !errors.Is(err, ErrToken) {
		t.Errorf("a deleted token: %v", err)
	}
	if err := tokens.Delete(ctx, token.ID); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	a := open(t, t.TempDir(), time.Now)
	cert, key, err := a.Viewer("alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	data, err := Kubeconfig("lab", "https://192.0.2.1:6443", a.PEM(), "alice", Credential{CertPEM: cert, KeyPEM: key})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://192.0.2.1:6443" || !bytes.Equal(config.CAData, a.PEM()) || !bytes.Equal(config.CertData, cert) {
		t.Errorf("the configuration reads back as %v", config)
	}
}
