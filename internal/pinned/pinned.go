// Package pinned trusts a server by the SHA-256 of the authority that its certificate is of, which a token states.
package pinned

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
)

// Token separates "<pin>.<id>.<secret>" into the pin, 64 hexadecimal digits, and "<id>.<secret>"; not ok: it is none.
func Token(text string) (pin, bearer string, ok bool) {
	pin, bearer, ok = strings.Cut(strings.TrimSpace(text), ".")
	_, err := hex.DecodeString(pin)
	return pin, bearer, ok && err == nil && len(pin) == sha256.Size*2 && strings.Count(bearer, ".") == 1
}

// Digest is the SHA-256 of a certificate's DER in hexadecimal digits.
func Digest(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ErrAuthority says that a server's certificate is not of the pinned authority.
var ErrAuthority = errors.New("the server's chain does not have the CA that the token pins")

// Config is for connections to a server whose chain ends in the authority of that pin.
func Config(pin string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the chain is checked against the pin instead of the system's authorities
		VerifyConnection:   func(s tls.ConnectionState) error { return verify(s, pin) },
	}
}

func verify(s tls.ConnectionState, pin string) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates {
		if Digest(c.Raw) == pin {
			roots.AddCert(c)
			found = true
			continue
		}
		inter.AddCert(c)
	}
	if !found {
		return ErrAuthority
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: inter,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}
