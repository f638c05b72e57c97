package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"golang.org/x/sync/errgroup"

	"lockstep/kinds/ingress"
)

const (
	// secretRefresh is how often a Secret is read that may not be watched: there may be more of them than are.
	secretRefresh = time.Minute
	// secretRetry is the pause before one is read again that could not be.
	secretRetry = 2 * time.Second
	// secretReads bounds the questions at once.
	secretReads = 8
)

// Secrets are those of the cluster. Names are namespace/name.
type Secrets interface {
	// Follow has these watched, and no others, until ctx ends. Changes are told by SecretChanged.
	Follow(ctx context.Context, names map[string]bool)
	// Secret is one as it is now, or was last known where the API does not answer. apierrors.IsNotFound: there is none.
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// certificates are those of Secrets, parsed. One that is none for TLS by now leaves what it was before.
type certificates struct {
	secrets Secrets
	wake    chan struct{}
	changed chan struct{}

	mu     sync.Mutex
	wanted map[string]*kept
}

type kept struct {
	pair *tls.Certificate // nil: none
	is   string           // which state of the Secret that is
	due  time.Time        // when it is looked at again
}

func newCertificates(s Secrets) *certificates {
	return &certificates{secrets: s, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), wanted: map[string]*kept{}}
}

// want has the certificates of these Secrets kept, and no others, and returns those that are known.
func (c *certificates) want(ctx context.Context, names []string) map[string]*tls.Certificate {
	c.mu.Lock()
	out, all, more := map[string]*tls.Certificate{}, map[string]bool{}, false
	for _, name := range names {
		all[name] = true
		k := c.wanted[name]
		if k == nil {
			k, more = &kept{}, true
			c.wanted[name] = k
		}
		if k.pair != nil {
			out[name] = k.pair
		}
	}
	before := len(c.wanted)
	maps.DeleteFunc(c.wanted, func(name string, _ *kept) bool { return !all[name] })
	if more || len(c.wanted) != before {
		c.secrets.Follow(ctx, all)
	}
	c.mu.Unlock()
	if more {
		nudge(c.wake)
	}
	return out
}

// poke has a Secret read again.
func (c *certificates) poke(name string) {
	c.mu.Lock()
	if k := c.wanted[name]; k != nil {
		k.due = time.Time{}
	}
	c.mu.Unlock()
	nudge(c.wake)
}

func (c *certificates) run(ctx context.Context) {
	tick := time.NewTicker(secretRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		}
		c.mu.Lock()
		var due []string
		for _, name := range slices.Sorted(maps.Keys(c.wanted)) {
			if !time.Now().Before(c.wanted[name].due) {
				due = append(due, name)
			}
		}
		c.mu.Unlock()
		var g errgroup.Group
		g.SetLimit(secretReads)
		for _, name := range due {
			g.Go(func() error { c.read(ctx, name); return nil })
		}
		_ = g.Wait() // none returns an error
	}
}

// read reads one Secret.
func (c *certificates) read(ctx context.Context, name string) {
	namespace, short, _ := strings.Cut(name, "/")
	began := time.Now()
	secret, err := c.secrets.Secret(ctx, namespace, short)
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.wanted[name]
	if k == nil {
		return
	}
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		k.due = began.Add(secretRetry)
		if k.pair != nil {
			k.pair, k.is = nil, ""
			nudge(c.changed)
		}
		return
	case err != nil:
		k.due = began.Add(secretRetry)
		return
	}
	k.due = began.Add(secretRefresh)
	if is := string(secret.UID) + "/" + secret.ResourceVersion; k.is != is {
		k.is = is
		if pair, err := ingress.Pair(secret); err == nil { // why it is none, the control plane tells
			k.pair = pair
			nudge(c.changed)
		}
	}
}

func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a wake-up is pending
	}
}

// selfSigned is a certificate of nobody's, for ten years.
func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Lockstep Ingress Default Certificate"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{"ingress.local"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
