package pki

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ServerUserPrefix begins the names by which servers know each other.
const ServerUserPrefix = "lockstep:server:"

// ErrNoServer says that whoever answers shows a certificate of the cluster that is no server's.
var ErrNoServer = errors.New("its certificate is of this cluster, but no server's")

// PeerConfig is how a server of that name asks others: it shows a certificate of its own, which is made anew when a third of its life is
// left, and takes an answer only from who shows a server's certificate of this authority.
func (a *Authority) PeerConfig(name string) *tls.Config {
	var mu sync.Mutex
	var current *tls.Certificate
	by := ""
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Whom the authority trusts may change while the server runs, and any server's word is another's.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			if mark := a.Mark(); current == nil || a.due(current.Leaf) || mark != by {
				next, err := a.peer(name)
				if err != nil {
					return nil, err
				}
				current, by = &next, mark
			}
			return current, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: a.Pool(), Intermediates: between, CurrentTime: a.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return err
			}
			if !slices.Contains(s.PeerCertificates[0].Subject.Organization, ServerGroup) {
				return ErrNoServer
			}
			return nil
		},
	}
}

// peer makes a certificate by which other servers know the one of that name.
func (a *Authority) peer(name string) (tls.Certificate, error) {
	template := a.template(pkix.Name{CommonName: ServerUserPrefix + name, Organization: []string{ServerGroup}}, a.serverLifetime)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	certPEM, keyPEM, err := a.issue(template)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make a certificate for server %s: %w", name, err)
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// due says that a third or less of a certificate's life is left.
func (a *Authority) due(c *x509.Certificate) bool {
	return !a.now().Before(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3))
}
