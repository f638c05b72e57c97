package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/store"
	"lockstep/store/view"
)

var (
	// ErrTaken: the node name belongs to another key.
	ErrTaken = errors.New("the node name is taken: join with the key it was registered with, or under another name; on a server, " +
		"lockstep node remove frees it")
	// ErrRemoved: the key was taken from the cluster, and no certificate for it holds any more.
	ErrRemoved = errors.New("this node was removed from the cluster: lockstep reset on its machine lets that join anew, " +
		"and deletes the data of claims there")
	// ErrUnproven: the name may be in a certificate that the store has forgotten.
	ErrUnproven = errors.New("a certificate may live that has this name, since the cluster's store was made anew: join with a token " +
		"for this very name (lockstep token create --node)")
	// ErrRequest: the request cannot be understood; its text says why.
	ErrRequest = errors.New("the request is not valid")

	errNobody = errors.New("the name is registered for no key")
)

// The table has rows of three types: node/<name>, removed/<key>, and how long the store has to reckon with names it does not
// know.
const (
	pkiTable = "pki"

	registrations view.Table[registration] = pkiTable
	removals      view.Table[removed]      = pkiTable
	doubts        view.Table[unproven]     = pkiTable

	nodePrefix, removedPrefix, unprovenName = "node/", "removed/", "unproven"
)

// registration is the row pki/node/<name>: whose key the name belongs to.
type registration struct {
	// Key is the SHA-256 of the public key (its SubjectPublicKeyInfo) in hex.
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
}

// removed is the row pki/removed/<key>: a key that holds no more, whatever certificate is shown for it.
type removed struct {
	Node  string    `json:"node"`
	Since time.Time `json:"since"`
}

// unproven is the row pki/unproven.
type unproven struct {
	Until time.Time `json:"until"`
}

// RegistrarOptions are what a registrar may have.
type RegistrarOptions struct {
	// Ledger keeps names and removals where the store is lost. Nil: only the store has them.
	Ledger *Ledger
	// StoreMade is when the store was made: names that the ledger cannot know are not given to whoever asks where it is
	// younger than the authority. Zero: it is as old.
	StoreMade time.Time
	// Log. Nil: slog.Default().
	Log *slog.Logger
}

// Registrar gives node names to keys, and takes them back.
type Registrar struct {
	authority *Authority
	tokens    Tokens
	opts      RegistrarOptions
	restored  chan struct{} // closed when the store has what the ledger knows
}

// NewRegistrar makes a registrar; it starts nothing: see Run. One without a ledger works at once.
func NewRegistrar(a *Authority, t Tokens, opts RegistrarOptions) *Registrar {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	r := &Registrar{authority: a, tokens: t, opts: opts, restored: make(chan struct{})}
	if opts.Ledger == nil {
		close(r.restored)
	}
	return r
}

// Join checks the token, registers a free name for the request's key, or finds the name registered for it, and returns
// the node's certificate in PEM. Errors match ErrToken, ErrTaken, ErrRemoved, ErrUnproven, ErrRequest or the store's.
func (r *Registrar) Join(ctx context.Context, bearer, node string, csrPEM []byte) ([]byte, error) {
	t, err := ParseBearer(bearer)
	if err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, ErrToken)
	}
	token, err := r.tokens.Check(t, UsageJoin)
	if err == nil && token.Node != "" && token.Node != node {
		err = ErrToken
	}
	if err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	if problems := validation.IsDNS1123Subdomain(node); len(problems) > 0 {
		return nil, fmt.Errorf("cannot join node %q: %w: %s", node, ErrRequest, problems[0])
	}
	if err := r.claim(ctx, node, fingerprint(csr.RawSubjectPublicKeyInfo), token.Node == node); err != nil {
		return nil, fmt.Errorf("cannot join node %q: %w", node, err)
	}
	return r.authority.SignNode(csr, node)
}

// Admit says whether a node's certificate, which is of the authority and in its time, holds: the name is registered for
// its key, and the key was not removed. A name that the store has forgotten is registered again, since nobody else was
// given it. Errors match ErrTaken, ErrRemoved or the store's.
func (r *Registrar) Admit(ctx context.Context, node string, cert *x509.Certificate) error {
	key := Fingerprint(cert)
	err := Holds(r.tokens.Store.View(), node, key)
	if errors.Is(err, errNobody) {
		if err = r.claim(ctx, node, key, true); err == nil {
			r.opts.Log.Info("the store had forgotten a node that has shown its certificate", "node", node)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot admit node %q: %w", node, err)
	}
	return nil
}

// Gone says that the view takes the name from the key: another has it, or the key was removed.
func Gone(v *view.View, node, key string) bool {
	err := Holds(v, node, key)
	return errors.Is(err, ErrTaken) || errors.Is(err, ErrRemoved)
}

// Holds is nil where the view has the name registered for the key. Its errors match ErrTaken, ErrRemoved, or none of
// these where the name is registered for nobody.
func Holds(v *view.View, node, key string) error {
	if _, found, _ := removals.Get(v, removedPrefix+key); found { // also one that cannot be read
		return ErrRemoved
	}
	reg, _, err := registered(v, node)
	if err == nil && reg.Key != key {
		err = ErrTaken
	}
	return err
}

// Renew signs a new certificate for a node that presents its current one; the key may not change.
func (r *Registrar) Renew(node string, current *x509.Certificate, csrPEM []byte) ([]byte, error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("cannot renew the certificate of node %q: %w", node, err)
	}
	key := fingerprint(csr.RawSubjectPublicKeyInfo)
	if key != Fingerprint(current) {
		err = ErrTaken
	} else {
		err = Holds(r.tokens.Store.View(), node, key)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot renew the certificate of node %q: %w", node, err)
	}
	return r.authority.SignNode(csr, node)
}

// claim registers a name for a key where it is free, or finds that the key has it. Proven says that nobody else can have
// a certificate for it, or that an operator answers for that.
func (r *Registrar) claim(ctx context.Context, node, key string, proven bool) error {
	select {
	case <-r.restored:
	case <-ctx.Done():
		return fmt.Errorf("cannot ask the ledger of nodes: %w", ctx.Err())
	}
	v := r.tokens.Store.View()
	if err := Holds(v, node, key); !errors.Is(err, errNobody) {
		if err != nil || r.opts.Ledger == nil {
			return err
		}
		is, _, err := registered(v, node)
		if err != nil {
			return err
		}
		return r.opts.Ledger.register(node, is)
	}
	if until := unprovenUntil(v); !proven && r.tokens.now().Before(until) {
		return fmt.Errorf("%w, or after %s", ErrUnproven, until.Format(time.DateOnly))
	}
	is := registration{Key: key, Since: r.tokens.now().UTC().Truncate(time.Second)}
	write := store.Write{Record: registrations.Record(nodePrefix+node, is), Reason: "node joined"}
	result := r.tokens.Commit.Commit(ctx, store.Group{write})[0]
	switch {
	case errors.Is(result.Err, store.ErrConflict):
		if err := r.lost(ctx, node, key); err != nil {
			return err
		}
		return r.claim(ctx, node, key, proven)
	case result.Err != nil:
		return fmt.Errorf("cannot register the name: %w", result.Err)
	}
	if _, err := r.tokens.Store.Wait(ctx, result.Revision); err != nil {
		return fmt.Errorf("cannot read the registration back: %w", err)
	}
	if r.opts.Ledger == nil {
		return nil
	}
	return r.opts.Ledger.register(node, is)
}

// lost finds who was given a name a moment ago: another, or the same key by another of its requests.
func (r *Registrar) lost(ctx context.Context, node, key string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	sub := r.tokens.Store.Subscribe("pki claim")
	defer sub.Close()
	for v := r.tokens.Store.View(); ; {
		if err := Holds(v, node, key); !errors.Is(err, errNobody) {
			return err
		}
		select {
		case batch, ok := <-sub.C:
			if !ok {
				return ErrTaken
			}
			v = batch.View
		case <-ctx.Done():
			return ErrTaken
		}
	}
}

// Registered are the nodes whose names have a key since before a moment; the zero time: all. They are in order of their names.
func Registered(v *view.View, before time.Time) (names []string) {
	for row, err := range registrations.Rows(v, nodePrefix) {
		if err == nil && (before.IsZero() || row.Value.Since.Before(before)) {
			names = append(names, strings.TrimPrefix(row.Name, nodePrefix))
		}
	}
	return names
}

// registered reads whose a name is; the error matches errNobody where it is free.
func registered(v *view.View, node string) (registration, int64, error) {
	row, found, err := registrations.Get(v, nodePrefix+node)
	if !found {
		err = errNobody
	}
	return row.Value, row.Revision, err
}

func unprovenUntil(v *view.View) time.Time {
	row, _, _ := doubts.Get(v, unprovenName) // what cannot be read was not written here: as if it were not there
	return row.Value.Until
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

// Fingerprint is the SHA-256 of a certificate's public key in hex: what a name is registered for.
func Fingerprint(cert *x509.Certificate) string { return fingerprint(cert.RawSubjectPublicKeyInfo) }

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}
