// Package register makes this machine a node of the cluster.
package register

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lockstep/internal/pinned"
	"lockstep/internal/whole"
)

const (
	caFile   = "ca.crt"
	certFile = "client.crt"
	keyFile  = "client.key"
	markFile = "ca.mark"
	// joinTimeout bounds one request: the server signs within milliseconds.
	joinTimeout = 15 * time.Second
	// maxAnswer bounds what a server may send before it is trusted.
	maxAnswer = 1 << 20
)

// Identity is where a node keeps its certificate and how it reaches the API.
type Identity struct {
	Server string // https://host:port
	Node   string // the node's name
	Dir    string // of key, certificate and CA; private to the agent
}

// TLS is the configuration of connections to the API. The certificate is read for each.
func (i Identity) TLS() (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(i.Dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read cluster's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("cannot read cluster's certificate: no certificate in the file")
	}
	return &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(filepath.Join(i.Dir, certFile), filepath.Join(i.Dir, keyFile))
			return &c, err
		},
	}, nil
}

// Certificate is the node's current one; os.ErrNotExist says that it has not joined.
func (i Identity) Certificate() (*x509.Certificate, error) {
	data, err := os.ReadFile(filepath.Join(i.Dir, certFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("cannot read certificate in %s: no PEM", i.Dir)
	}
	return x509.ParseCertificate(block.Bytes)
}

// Joined says whether the node has a certificate in its name that is valid at now.
func (i Identity) Joined(now time.Time) bool {
	c, err := i.Certificate()
	return err == nil && now.Before(c.NotAfter) && c.Subject.CommonName == "system:node:"+i.Node
}

// ErrRefused says that the server will refuse the same request again.
var ErrRefused = errors.New("the server refused")

// ErrToken says that a token cannot be one, whatever a server says.
var ErrToken = errors.New("the token is not of the form <pin>.<id>.<secret> that lockstep token create prints")

// CheckToken returns ErrToken for a text that is no join token.
func CheckToken(token string) error {
	if _, _, ok := pinned.Token(token); !ok {
		return ErrToken
	}
	return nil
}

// Join buys a certificate with token, "<ca sha256 hex>.<id>.<secret>". The
// secret is sent only to a server whose chain ends in the certificate that the
// token pins. An existing key is kept, since a taken name needs it.
func (i Identity) Join(ctx context.Context, token string) error {
	if err := CheckToken(token); err != nil {
		return fmt.Errorf("cannot join %s: %w", i.Server, err)
	}
	pin, bearer, _ := pinned.Token(token)
	csr, err := i.request()
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout:   joinTimeout,
		Transport: &http.Transport{DialContext: direct(), TLSClientConfig: pinned.Config(pin)},
	}
	defer client.CloseIdleConnections()
	var answer answer
	err = post(ctx, client, i.Server+"/lockstep/v1/join", map[string]string{"token": bearer, "node": i.Node, "csr": string(csr)}, &answer)
	if err != nil {
		return fmt.Errorf("cannot join %s as node %s: %w", i.Server, i.Node, err)
	}
	if !has(answer.CA, pin) {
		return fmt.Errorf("cannot join %s: it answered with another CA than the token pins", i.Server)
	}
	return i.store(answer)
}

// Renew replaces a certificate before it expires; the key stays.
func (i Identity) Renew(ctx context.Context) error {
	csr, err := i.request()
	if err != nil {
		return err
	}
	conf, err := i.TLS()
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: joinTimeout, Transport: &http.Transport{DialContext: direct(), TLSClientConfig: conf}}
	defer client.CloseIdleConnections()
	var answer answer
	if err := post(ctx, client, i.Server+"/lockstep/v1/renew", map[string]string{"node": i.Node, "csr": string(csr)}, &answer); err != nil {
		return fmt.Errorf("cannot renew certificate of node %s: %w", i.Node, err)
	}
	return i.store(answer)
}

// answer is what a server answers who joins or renews: certificate and authority in PEM, and which authority that is.
type answer struct{ Certificate, CA, Mark string }

// has says whether one of the certificates in PEM is the one of a pin: while the authority is replaced there are two.
func has(certificates, pin string) bool {
	for rest := []byte(certificates); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		if pinned.Digest(block.Bytes) == pin {
			return true
		}
	}
}

// Mark names the authority by which the node's certificate was signed, and those that it trusts, as the server did when it gave them;
// empty: it did not.
func (i Identity) Mark() string {
	data, _ := os.ReadFile(filepath.Join(i.Dir, markFile)) // absent where the server was of a release that has none
	return strings.TrimSpace(string(data))
}

// RenewAt is when two thirds of a certificate's life have passed.
func RenewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)
}

// request returns a signing request for the node's key, which is made if absent.
func (i Identity) request() ([]byte, error) {
	key, err := i.key()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + i.Node, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Key is the node's private key.
func (i Identity) Key() (*ecdsa.PrivateKey, error) {
	signer, err := i.key()
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot use key %s: it is a %T", filepath.Join(i.Dir, keyFile), signer)
	}
	return key, nil
}

func (i Identity) key() (crypto.Signer, error) {
	path := filepath.Join(i.Dir, keyFile)
	data, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("cannot read key %s: no PEM", path)
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read key %s: %w", path, err)
		}
		signer, ok := k.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("cannot read key %s: it cannot sign", path)
		}
		return signer, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("cannot encode key: %w", err)
	}
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot store key: %w", err)
	}
	if err := whole.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, fmt.Errorf("cannot store key: %w", err)
	}
	return k, nil
}

func (i Identity) store(a answer) error {
	if block, _ := pem.Decode([]byte(a.Certificate)); block == nil {
		return errors.New("cannot store certificate: the server sent none")
	}
	var err error
	if a.CA != "" {
		err = whole.Write(filepath.Join(i.Dir, caFile), []byte(a.CA))
	}
	if err == nil {
		err = whole.Write(filepath.Join(i.Dir, certFile), []byte(a.Certificate))
	}
	if err == nil {
		err = whole.Write(filepath.Join(i.Dir, markFile), []byte(a.Mark+"\n"))
	}
	if err != nil {
		return fmt.Errorf("cannot store certificate: %w", err)
	}
	return nil
}

func post(ctx context.Context, client *http.Client, url string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		text := strings.TrimSpace(string(data))
		var status struct{ Message string }
		if json.Unmarshal(data, &status) == nil && status.Message != "" {
			text = status.Message
		}
		again := res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout
		if res.StatusCode/100 == 4 && !again {
			return fmt.Errorf("%w: %s", ErrRefused, text)
		}
		return fmt.Errorf("%s: %s", res.Status, text)
	}
	return json.Unmarshal(data, answer)
}
