package api

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// admitTimeout bounds the recording of a node that the store has forgotten.
const admitTimeout = 10 * time.Second

// identity is who makes a request.
type identity struct {
	rights.Subject
	// credential is what its budgets are kept by: a node's name, one viewer's certificate or token, a pod, or an address.
	credential string
	// until is when the credential ends; zero: never.
	until time.Time
	// holds says whether the credential is still good in a view; nil: it is until its end.
	holds func(*view.View) bool
}

func anonymousIdentity() identity {
	return identity{Subject: rights.Subject{User: user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}}}
}

// identify says who a verified name and its groups are.
func identify(name string, groups []string) identity {
	return identity{Subject: subject(name, append(slices.Clone(groups), user.AllAuthenticated))}
}

// subject is whom a name and all its groups stand for.
func subject(name string, groups []string) rights.Subject {
	who := rights.Subject{Role: rights.Person, User: user.DefaultInfo{Name: name, Groups: groups}}
	short, isNode := strings.CutPrefix(name, pki.NodeUserPrefix)
	switch {
	case isNode && short != "" && slices.Contains(groups, pki.NodeGroup):
		who.Role, who.Node = rights.Node, short
	case slices.Contains(groups, pki.ServerGroup):
		who.Role = rights.Server
	case slices.Contains(groups, serviceaccount.AllServiceAccountsGroup) || isAccount(name):
		who.Role = rights.Account
	}
	return who
}

// isAccount says that a name is a service account's: nobody else gets one like it, and who asks what it may need not name its groups.
func isAccount(name string) bool {
	_, _, err := serviceaccount.SplitUsername(name)
	return err == nil
}

// views says whether somebody is a viewer.
func (id identity) views() bool { return slices.Contains(id.User.Groups, pki.ViewerGroup) }

// writes says whether somebody may write at all.
func (id identity) writes() bool { return id.Role == rights.Node || id.Role == rights.Account }

// writer is what the budgets of what somebody writes are kept by: all pods of an account share one, for there may be any number.
func (id identity) writer() string {
	if id.Role == rights.Account {
		return "account/" + id.User.Name
	}
	return id.credential
}

// authenticate finds who makes a request: by the client certificate, which TLS has verified against the cluster's
// authority, else by a bearer token, else nobody. A token that is not good is an error, as in Kubernetes.
func (s *server) authenticate(r *http.Request) (identity, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return s.byCertificate(r, r.TLS.VerifiedChains[0])
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		id := anonymousIdentity()
		id.credential = peerOf(r)
		return id, nil
	}
	scheme, bearer, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	id, err := s.byToken(r.Context(), strings.TrimSpace(bearer))
	if errors.Is(err, pki.ErrToken) || errors.Is(err, accounts.ErrToken) {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	return id, err
}

// byCertificate finds who a certificate is of, by the chain to its authority that was verified when its connection was opened. A node's
// must be for the key that its name is registered for.
func (s *server) byCertificate(r *http.Request, chain []*x509.Certificate) (identity, error) {
	cert, root := chain[0], chain[len(chain)-1]
	if !s.opts.Authority.Trusts(root) { // it did when the connection was opened
		return identity{}, apierrors.NewUnauthorized("the certificate is of a CA that was replaced")
	}
	id, err := s.byName(r, cert)
	if err != nil {
		return identity{}, err
	}
	named := id.holds
	id.holds = func(v *view.View) bool { return s.opts.Authority.Trusts(root) && (named == nil || named(v)) }
	return id, nil
}

func (s *server) byName(r *http.Request, cert *x509.Certificate) (identity, error) {
	id := identify(cert.Subject.CommonName, cert.Subject.Organization)
	id.until = cert.NotAfter
	switch id.Role {
	case rights.Node:
		key := pki.Fingerprint(cert)
		id.credential = nodeCredential(id.Node)
		id.holds = func(v *view.View) bool { return !pki.Gone(v, id.Node, key) }
		ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
		defer cancel()
		err := s.joins.Admit(ctx, id.Node, cert)
		switch {
		case errors.Is(err, pki.ErrRemoved), errors.Is(err, pki.ErrTaken):
			return identity{}, apierrors.NewUnauthorized(err.Error())
		case err != nil:
			return identity{}, unavailable(err)
		}
		if s.conns.know(r.Context(), id) && !id.holds(s.store.View()) { // it ceased to hold meanwhile
			return identity{}, apierrors.NewUnauthorized(pki.ErrRemoved.Error())
		}
	case rights.Server:
		name, ok := strings.CutPrefix(cert.Subject.CommonName, pki.ServerUserPrefix)
		if !ok {
			return identity{}, apierrors.NewUnauthorized("the certificate is a server's, but not one by which it may ask")
		}
		id.credential = "server/" + name
		id.holds = func(v *view.View) bool { return v.Get(apiservers.Key(name)) != nil }
		if !id.holds(s.store.View()) {
			return identity{}, apierrors.NewUnauthorized("server " + name + " is none of this cluster's, or was removed")
		}
	case rights.Person:
		id.credential = "cert/" + cert.SerialNumber.String()
	default:
		return identity{}, apierrors.NewUnauthorized("the certificate is neither a node's nor a person's")
	}
	return id, nil
}

// byToken finds whose a person's or a service account's token is; otherwise the error matches pki.ErrToken or
// accounts.ErrToken.
func (s *server) byToken(ctx context.Context, bearer string) (identity, error) {
	if accounts.Ours(bearer) {
		return s.byAccount(ctx, bearer)
	}
	token, err := pki.ParseBearer(bearer)
	if err != nil {
		return identity{}, pki.ErrToken
	}
	record, err := s.tokens.Check(token, pki.UsageView, pki.UsageUser)
	if err != nil {
		return identity{}, err
	}
	id := identify(record.Names())
	id.credential, id.until = "token/"+token.ID, record.Expires
	id.holds = func(v *view.View) bool { return pki.Issued(v, token.ID) }
	return id, nil
}

// nodeCredential is what the budgets of a node are kept by.
func nodeCredential(name string) string { return "node/" + name }

type identityKey struct{}

func withIdentity(ctx context.Context, id identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// identityOf is who makes the request of ctx.
func identityOf(ctx context.Context) identity {
	if id, ok := ctx.Value(identityKey{}).(identity); ok {
		return id
	}
	return anonymousIdentity()
}
