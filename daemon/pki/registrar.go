package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/daemon/store"
	"lockstep/daemon/store/view"
)

var (
	// ErrTaken: the node name belongs to another key.
	ErrTaken = errors.New("the node name is taken: join with the key it was registered with, or under another name")
	// ErrRequest: the request cannot be understood; its text says why.
	ErrRequest = errors.New("the request is not valid")
)

const pkiTable = "pki"

// registration is the record pki/node/<name>: whose key the name belongs to.
type registration struct {
	// Key is the SHA-256 of the public key (its SubjectPublicKeyInfo) in hex.
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
}

// Registrar gives node names to keys.
type Registrar struct {
	Authority *Authority
	Tokens    Tokens
}

// Join checks the token, registers a free name for the request's key, or finds the name registered for it, and returns
// the node's certificate in PEM. Errors match ErrToken, ErrTaken, ErrRequest or the store's.
func (r *Registrar) Join(ctx context.Context, bearer, node string, csrPEM []byte) ([]byte, error) {
	t, err := ParseBearer(bearer)
	if err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, ErrToken)
	}
	if _, err := r.Tokens.Check(t, UsageJoin); err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	if problems := validation.IsDNS1123Subdomain(node); len(problems) > 0 {
		return nil, fmt.Errorf("cannot join node %q: %w: %s", node, ErrRequest, problems[0])
	}
	if err := r.register(ctx, node, fingerprint(csr.RawSubjectPublicKeyInfo)); err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	return r.Authority.SignNode(csr, node)
}

// Renew signs a new certificate for a node that presents its current one; the key may not change.
func (r *Registrar) Renew(node string, current *x509.Certificate, csrPEM []byte) ([]byte, error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot renew the certificate of node %q: %w", node, err)
	}
	key := fingerprint(csr.RawSubjectPublicKeyInfo)
	owner, known, err := r.owner(node)
	if err != nil {
		return nil, err
	}
	if key != fingerprint(current.RawSubjectPublicKeyInfo) || !known || key != owner {
		return nil, fmt.Errorf("cannot renew the certificate of node %q: %w", node, ErrTaken)
	}
	return r.Authority.SignNode(csr, node)
}

func (r *Registrar) register(ctx context.Context, node, key string) error {
	data, err := json.Marshal(registration{Key: key, Since: r.Tokens.now().UTC()})
	if err != nil {
		return fmt.Errorf("cannot encode the registration: %w", err)
	}
	if owner, known, err := r.owner(node); err != nil || known {
		return judge(owner, key, err)
	}
	write := store.Write{Record: &view.Record{Table: pkiTable, Name: "node/" + node, Data: data}, Reason: "node joined"}
	result := r.Tokens.Commit.Commit(ctx, store.Group{write})[0]
	switch {
	case errors.Is(result.Err, store.ErrConflict):
		// Another request took the name a moment ago; the view may not have it yet, so this one does not win it.
		return ErrTaken
	case result.Err != nil:
		return fmt.Errorf("cannot register the name: %w", result.Err)
	}
	if _, err := r.Tokens.Store.Wait(ctx, result.Revision); err != nil {
		return fmt.Errorf("cannot read the registration back: %w", err)
	}
	return nil
}

func (r *Registrar) owner(node string) (key string, known bool, err error) {
	record, found := r.Tokens.Store.View().Record(pkiTable, "node/"+node)
	if !found {
		return "", false, nil
	}
	var reg registration
	if err := json.Unmarshal(record.Data, &reg); err != nil {
		return "", true, fmt.Errorf("cannot read the registration of node %q: %w", node, err)
	}
	return reg.Key, true, nil
}

func judge(owner, key string, err error) error {
	if err == nil && owner != key {
		return ErrTaken
	}
	return err
}

func parseRequest(csrPEM []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: want a PEM block CERTIFICATE REQUEST", ErrRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	return csr, nil
}

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}
