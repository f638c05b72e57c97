package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
)

const (
	// PeerName is the common name of the certificates by which servers' etcds know each other. No user and no node can have it:
	// see CheckNames.
	PeerName = "lockstep:peer"
	// peerFile has certificate and key in one, so that no crash leaves one without the other.
	peerFile = "peer.pem"
)

// KeepPeer sees to it that the vault has a certificate with which this server's etcd can be reached at a host and reaches others,
// with a third of its life left at least, and that the authority's own certificate lies beside it. It returns their files.
func (a *Authority) KeepPeer(vault Dir, host string) (caFile, certAndKeyFile string, err error) {
	caFile, certAndKeyFile = filepath.Join(string(vault), caCertFile), filepath.Join(string(vault), peerFile)
	if err := vault.Create(caCertFile, a.PEM()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", err
	}
	if data, err := vault.Read(peerFile); err == nil && a.goodPeer(data, host) {
		return caFile, certAndKeyFile, nil
	}
	template := a.template(subjectOf(PeerName, ServerGroup), serverLifetime)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	certPEM, keyPEM, err := a.issue(template)
	if err == nil {
		err = vault.Replace(peerFile, slices.Concat(keyPEM, certPEM))
	}
	if err != nil {
		return "", "", fmt.Errorf("cannot make a certificate for other servers: %w", err)
	}
	return caFile, certAndKeyFile, nil
}

// goodPeer says that a certificate is the authority's, for the host, and has a third of its life left.
func (a *Authority) goodPeer(data []byte, host string) bool {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil || pair.Leaf == nil {
		return false
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{
		Roots: a.Pool(), CurrentTime: a.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err == nil && pair.Leaf.VerifyHostname(host) == nil && pair.Leaf.Subject.CommonName == PeerName && !a.due(pair.Leaf)
}
