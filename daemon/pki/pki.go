// Package pki is the cluster's certificate authority: who is a server, a node, a viewer, and which tokens may join.
package pki

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"sync"
	"time"

	"lockstep/daemon/rights"
	"lockstep/internal/settings"
)

const (
	// caLifetime: nothing rotates the authority yet, and every agent pins it; it must outlive the machines.
	caLifetime = 10 * 365 * 24 * time.Hour
	// serverLifetime is short because a server makes its own certificate anew whenever a third of it is left.
	serverLifetime = 90 * 24 * time.Hour
	// nodeLifetime: an agent renews when a third is left, so a node may be cut off for a month without joining anew.
	nodeLifetime = 90 * 24 * time.Hour
	// skew is how far ahead of ours another machine's clock may be for it to accept a certificate at once.
	skew = 5 * time.Minute
)

// ViewerLifetime is how long a viewer's or a user's credential holds unless told otherwise. It bounds what a lost kubeconfig is
// worth, since one certificate alone cannot be revoked.
const ViewerLifetime = 365 * 24 * time.Hour

// Names of users and groups, as certificates and tokens state them.
const (
	NodeUserPrefix = "system:node:"
	NodeGroup      = "system:nodes"
	ViewerGroup    = rights.ViewerGroup
	ServerGroup    = "lockstep:servers"
)

const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
	// nextKeyFile has the authority that is to sign next, as caKeyFile has that which does; oldCertFile the certificate of the one that did
	// before, and a certificate of the present one by it. Both are empty but while the authority is replaced.
	nextKeyFile = "ca-next.key"
	oldCertFile = "ca-old.crt"
	// accountKeyFile has the key that signs tokens of service accounts.
	accountKeyFile = "sa.key"
)

// Authority signs certificates with the cluster's key. Any number of goroutines may use one.
type Authority struct {
	vault Vault
	now   func() time.Time
	// accountKey signs tokens of service accounts.
	accountKey *ecdsa.PrivateKey

	mu   sync.RWMutex
	keys keys

	nodeLifetime, serverLifetime time.Duration
}

// Options of an authority.
type Options struct {
	// Cluster is the name that the authority's certificate bears. Empty: "lockstep".
	Cluster string
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
	// NodeLifetime is how long nodes' certificates hold. Zero: 90 days.
	NodeLifetime time.Duration
	// ServerLifetime is how long servers' certificates hold. Zero: 90 days.
	ServerLifetime time.Duration
}

// Open reads the authority from the vault, or makes it there: an ECDSA P-256 key and a certificate of ten years, and another
// such key for tokens of service accounts.
func Open(vault Vault, opts Options) (*Authority, error) {
	if opts.Cluster == "" {
		opts.Cluster = "lockstep"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	bundle, err := vault.Read(caKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(vault, opts); err == nil {
			bundle, err = vault.Read(caKeyFile)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the cluster's authority: %w", err)
	}
	is, err := parse(bundle)
	if err != nil {
		return nil, err
	}
	a, k := &Authority{vault: vault, now: opts.Now}, keys{is: is}
	if err := k.resume(vault); err != nil {
		return nil, err
	}
	a.set(k)
	if a.accountKey, err = openAccountKey(vault); err != nil {
		return nil, err
	}
	a.nodeLifetime = cmp.Or(opts.NodeLifetime, nodeLifetime)
	a.serverLifetime = cmp.Or(opts.ServerLifetime, serverLifetime)
	return a, nil
}

// create stores key and certificate as one document, so that no crash leaves one without the other; the certificate
// alone is stored beside it for those who only verify.
func create(vault Vault, opts Options) error {
	bundle, err := newAuthority(opts.Cluster+"-ca", opts.Now())
	if err != nil {
		return err
	}
	if err := vault.Create(caKeyFile, bundle); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	winner, err := vault.Read(caKeyFile)
	if err != nil {
		return err
	}
	_, certPEM := split(winner)
	if err := vault.Create(caCertFile, certPEM); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// newAuthority makes a key and its certificate for ten years, in PEM.
func newAuthority(name string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	template := authorityTemplate(name, now.Add(-skew), now.Add(caLifetime))
	certPEM, err := sign(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(keyPEM, certPEM...), nil
}

func authorityTemplate(name string, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
}

func parse(bundle []byte) (*signer, error) {
	keyPEM, certPEM := split(bundle)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("cannot read the authority's certificate: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !cert.IsCA {
		return nil, errors.New("cannot read the cluster's authority: want an ECDSA key and a certificate that may sign")
	}
	return &signer{cert: cert, key: key, pem: certPEM}, nil
}

// split separates the key from the certificates of a PEM bundle.
func split(bundle []byte) (key, certs []byte) {
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return key, certs
		}
		if block.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(block)...)
		} else {
			key = append(key, pem.EncodeToMemory(block)...)
		}
	}
}

// PEM are the certificates of the authority that are trusted, that which signs first; the caller must not change them.
func (a *Authority) PEM() []byte { return a.current().bundle() }

// Pool holds just the authority's certificates that are trusted.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range a.current().trusted() {
		pool.AddCert(cert)
	}
	return pool
}

// Pin is the SHA-256 of the certificate that signs, in hex, 64 digits: the first part of a join token.
func (a *Authority) Pin() string { return Pin(a.current().is.cert) }

// Pin is the SHA-256 of a certificate in hex.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Server makes a certificate for an API server that is reached under these host names and addresses.
func (a *Authority) Server(hosts []string) (tls.Certificate, error) {
	template := a.template(pkix.Name{CommonName: "lockstep-server", Organization: []string{ServerGroup}}, a.serverLifetime)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	certPEM, keyPEM, err := a.issue(template)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make a server certificate: %w", err)
	}
	return tls.X509KeyPair(append(certPEM, a.current().chain()...), keyPEM)
}

// ServerHosts are the names under which every API server is reached from inside the cluster, and the given ones.
func ServerHosts(s settings.Settings, more ...string) []string {
	hosts := []string{
		"localhost", "127.0.0.1", "::1",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.Domain,
	}
	for _, addr := range s.API() {
		hosts = append(hosts, addr.String())
	}
	return append(hosts, more...)
}

// ServerConfig is a TLS configuration that asks clients for certificates of this authority without requiring one, and
// whose own certificate is made anew when a third of its life is left.
func (a *Authority) ServerConfig(hosts []string) (*tls.Config, error) {
	first, err := a.Server(hosts)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	current, by := first, a.Mark()
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if mark := a.Mark(); a.due(current.Leaf) || mark != by {
			next, err := a.Server(hosts)
			if err != nil {
				return nil, err
			}
			current, by = next, mark
		}
		cert := current
		return &cert, nil
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.VerifyClientCertIfGiven, GetCertificate: get,
	}
	// Whom the authority trusts may change while the server runs.
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := config.Clone()
		now.GetConfigForClient, now.ClientCAs = nil, a.Pool()
		return now, nil
	}
	return config, nil
}

// SignNode signs a node's request, whatever subject it asks for, as system:node:<node>.
func (a *Authority) SignNode(csr *x509.CertificateRequest, node string) ([]byte, error) {
	template := a.template(pkix.Name{CommonName: NodeUserPrefix + node, Organization: []string{NodeGroup}}, a.nodeLifetime)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	by := a.current().is
	certPEM, err := sign(template, by.cert, csr.PublicKey, by.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of node %s: %w", node, err)
	}
	return certPEM, nil
}

// Viewer makes a client certificate that may read everything but Secrets; see User.
func (a *Authority) Viewer(name string, ttl time.Duration) (certPEM, keyPEM []byte, err error) {
	return a.User(name, []string{ViewerGroup}, ttl)
}

// User makes a client certificate of a user in groups that bindings name; certificate and key are PEM. It holds for ttl, but no
// longer than the authority; zero: ViewerLifetime.
func (a *Authority) User(name string, groups []string, ttl time.Duration) (certPEM, keyPEM []byte, err error) {
	template := a.template(pkix.Name{CommonName: name, Organization: groups}, cmp.Or(ttl, ViewerLifetime))
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if certPEM, keyPEM, err = a.issue(template); err != nil {
		return nil, nil, fmt.Errorf("cannot make a certificate for user %s: %w", name, err)
	}
	return certPEM, keyPEM, nil
}

func subjectOf(name string, groups ...string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: groups}
}

func (a *Authority) template(subject pkix.Name, lifetime time.Duration) *x509.Certificate {
	now := a.now()
	end := now.Add(lifetime)
	if most := a.current().is.cert.NotAfter; end.After(most) {
		end = most
	}
	return &x509.Certificate{
		Subject:               subject,
		NotBefore:             now.Add(-skew),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (a *Authority) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot generate a key: %w", err)
	}
	by := a.current().is
	if certPEM, err = sign(template, by.cert, &key.PublicKey, by.key); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return certPEM, keyPEM, err
}

func sign(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("cannot draw a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign a certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
