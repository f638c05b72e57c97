package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"lockstep/daemon/pki"
)

// role is what the API knows to tell apart.
type role int

const (
	anonymous role = iota
	viewer
	node
)

// identity is who makes a request.
type identity struct {
	role role
	// node is the node's name, for role node.
	node string
	user user.DefaultInfo
}

func anonymousIdentity() identity {
	return identity{user: user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}}
}

// identify reads who a verified name and its groups are.
func identify(name string, groups []string) identity {
	id := identity{user: user.DefaultInfo{Name: name, Groups: append(slices.Clone(groups), user.AllAuthenticated)}}
	short, isNode := strings.CutPrefix(name, pki.NodeUserPrefix)
	switch {
	case isNode && short != "" && slices.Contains(groups, pki.NodeGroup):
		id.role, id.node = node, short
	case slices.Contains(groups, pki.ViewerGroup):
		id.role = viewer
	}
	return id
}

// authenticate finds who makes a request: by the client certificate, which TLS has verified against the cluster's
// authority, else by a bearer token, else nobody. A token that is not good is an error, as in Kubernetes.
func (s *server) authenticate(r *http.Request) (identity, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if id := identify(subject.CommonName, subject.Organization); id.role != anonymous {
			return id, nil
		}
		return identity{}, apierrors.NewUnauthorized("the certificate is neither a node's nor a viewer's")
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return anonymousIdentity(), nil
	}
	scheme, bearer, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	id, err := s.byToken(strings.TrimSpace(bearer))
	if errors.Is(err, pki.ErrToken) {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	return id, err
}

// byToken finds who a viewer's token is; otherwise the error matches pki.ErrToken.
func (s *server) byToken(bearer string) (identity, error) {
	token, err := pki.ParseBearer(bearer)
	if err != nil {
		return identity{}, pki.ErrToken
	}
	record, err := s.tokens.Check(token, pki.UsageView)
	if err != nil {
		return identity{}, err
	}
	name := record.User
	if name == "" {
		name = serviceaccount.MakeUsername("kube-system", "viewer")
	}
	return identify(name, []string{pki.ViewerGroup}), nil
}

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
