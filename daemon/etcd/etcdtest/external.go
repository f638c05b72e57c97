package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lockstep/daemon/etcd"
	"lockstep/internal/loopback"
)

// External starts an etcd that listens with TLS on loopback and wants client certificates, and returns how to reach it.
func External(t testing.TB) (endpoints []string, files etcd.TLS) {
	t.Helper()
	files = certificates(t)
	peer, client := loopback.Free(t).String(), "https://"+loopback.Free(t).String()
	Start(t, func(o *etcd.Options) {
		o.Name = "external"
		o.Peer = &etcd.Peer{Listen: peer, URL: "https://" + peer, Client: client, TLS: files}
	})
	return []string{client}, files
}

// certificates writes an authority and a certificate of its, for servers and clients on loopback.
func certificates(t testing.TB) etcd.TLS {
	t.Helper()
	dir := t.TempDir()
	caKey, caTemplate := key(t), template("test authority")
	caTemplate.IsCA, caTemplate.BasicConstraintsValid = true, true
	caTemplate.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	ca := sign(t, caTemplate, caTemplate, &caKey.PublicKey, caKey)
	leafKey, leaf := key(t), template("member")
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert := sign(t, leaf, caTemplate, &leafKey.PublicKey, caKey)
	der, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return etcd.TLS{
		CAFile:   writePEM(t, dir, "ca.crt", "CERTIFICATE", ca),
		CertFile: writePEM(t, dir, "tls.crt", "CERTIFICATE", cert),
		KeyFile:  writePEM(t, dir, "tls.key", "EC PRIVATE KEY", der),
	}
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func sign(t testing.TB, c, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t testing.TB, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
