// Package accounts makes and reads the tokens by which programs in pods are known to the API.
package accounts

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"lockstep/store/view"
)

// Paths at which programs learn who signs the tokens, and by which keys.
const (
	ConfigPath = serviceaccount.OpenIDConfigPath
	KeysPath   = serviceaccount.JWKSPath
)

// ErrToken: the token is not one of this cluster's, has expired, is not for this use, or what it is bound to is gone.
var ErrToken = errors.New("the token is not valid")

// Authority signs tokens of service accounts, and reads them. Any number of goroutines may use one.
type Authority struct {
	issuer    string
	view      func() *view.View
	generator serviceaccount.TokenGenerator
	reader    authenticator.Token
	metadata  serviceaccount.OpenIDMetadataProvider
}

// Bound is what a token is for: it holds no longer than its account is there, and what else it is bound to, of which there is one:
// a pod, with its node, a node or a Secret. Nil: it is not bound to such a thing.
type Bound struct {
	Account *corev1.ServiceAccount
	Pod     *corev1.Pod
	Node    *corev1.Node // the pod's, or nil where it is not known yet
	Secret  *corev1.Secret
}

// Known is who shows a token.
type Known struct {
	User      user.DefaultInfo
	Audiences []string // those of the token that were asked for
	Until     time.Time
	secret    reference
}

// reference is a Secret that a token is bound to; its zero value is none.
type reference struct{ Name, UID string }

// New returns the authority of a cluster, which signs by an ECDSA key of the curve P-256. The issuer is the API's URL within
// the cluster, and the audience of tokens that name none; view is asked for what tokens are bound to.
func New(key *ecdsa.PrivateKey, issuer string, view func() *view.View) (*Authority, error) {
	a := &Authority{issuer: issuer, view: view}
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{&key.PublicKey})
	if err == nil {
		a.generator, err = serviceaccount.JWTTokenGenerator(issuer, key)
	}
	if err == nil {
		a.metadata, err = serviceaccount.NewOpenIDMetadataProvider(issuer, issuer+KeysPath, "", keys)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot sign tokens of service accounts: %w", err)
	}
	a.reader = serviceaccount.JWTTokenAuthenticator([]string{issuer}, keys, authenticator.Audiences{issuer},
		serviceaccount.NewValidator(lookup{view}))
	return a, nil
}

// Audience is that of tokens for the API itself.
func (a *Authority) Audience() string { return a.issuer }

// Config is the OpenID provider's description of itself, JSON.
func (a *Authority) Config() []byte {
	data, _ := a.metadata.GetConfigJSON()
	return data
}

// Keys are the public keys that tokens are signed by, as a JSON Web Key Set.
func (a *Authority) Keys() []byte {
	data, _ := a.metadata.GetKeysetJSON()
	return data
}

// Issue signs a token for the audiences that holds for so many seconds from now.
func (a *Authority) Issue(ctx context.Context, b Bound, audiences []string, seconds int64) (string, error) {
	account := core.ServiceAccount{ObjectMeta: named(b.Account)}
	var pod *core.Pod
	var node *core.Node
	var secret *core.Secret
	switch {
	case b.Pod != nil && b.Pod.Spec.NodeName != "":
		node = &core.Node{ObjectMeta: metav1.ObjectMeta{Name: b.Pod.Spec.NodeName}}
		fallthrough
	case b.Pod != nil:
		pod = &core.Pod{ObjectMeta: named(b.Pod)}
	case b.Secret != nil:
		secret = &core.Secret{ObjectMeta: named(b.Secret)}
	}
	if b.Node != nil {
		node = &core.Node{ObjectMeta: named(b.Node)}
	}
	claims, private, err := serviceaccount.Claims(account, pod, secret, node, nil, nil, seconds, 0, audiences, nil)
	if err == nil {
		var token string
		if token, err = a.generator.GenerateToken(ctx, claims, private); err == nil {
			return token, nil
		}
	}
	return "", fmt.Errorf("cannot sign a token of service account %s/%s: %w", account.Namespace, account.Name, err)
}

// named is of an object's metadata what tokens state.
func named(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID()}
}

// Ours says that a bearer token looks like one of a service account's, whether it is good or not.
func Ours(token string) bool { return strings.Count(token, ".") == 2 }

// Read finds who shows a token, which must be for one of the audiences; none: for the API itself. Its error matches ErrToken.
func (a *Authority) Read(ctx context.Context, token string, audiences ...string) (Known, error) {
	if len(audiences) == 0 {
		audiences = []string{a.issuer}
	}
	response, ok, err := a.reader.AuthenticateToken(authenticator.WithAudiences(ctx, audiences), token)
	if err != nil {
		return Known{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if !ok {
		return Known{}, ErrToken
	}
	info, isDefault := response.User.(*user.DefaultInfo)
	until, secret, found := claimed(token)
	if !isDefault || !found {
		return Known{}, ErrToken
	}
	known := Known{User: *info, Audiences: slices.Clone(response.Audiences), Until: until, secret: secret}
	if !known.Holds(a.view()) {
		return Known{}, ErrToken
	}
	return known, nil
}

// claimed is what the reader does not tell of a token that it has verified: when it ends, and which Secret it is bound to.
func claimed(token string) (until time.Time, secret reference, ok bool) {
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp        int64 `json:"exp"`
		Kubernetes struct {
			Secret reference `json:"secret"`
		} `json:"kubernetes.io"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Exp == 0 {
		return time.Time{}, reference{}, false
	}
	return time.Unix(claims.Exp, 0), claims.Kubernetes.Secret, true
}
