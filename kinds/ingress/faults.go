package ingress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Cluster is where what an Ingress names is looked for. What it returns is shared; nil: there is none.
type Cluster struct {
	Service func(namespace, name string) *corev1.Service
	Secret  func(namespace, name string) *corev1.Secret
	Holders Holders
}

// Faults is what is wrong with an Ingress of Lockstep's, the first cause first.
func Faults(i *networkingv1.Ingress, in Cluster, now time.Time) []Fault {
	_, faults := Read(i)
	faults = append(faults, in.Holders.Lost(i)...)
	for _, b := range Backends(i) {
		if why := in.lacks(i.Namespace, b); why != "" {
			faults = append(faults, Fault{NoBackend, b.Field, why})
		}
	}
	for n, t := range i.Spec.TLS {
		if t.SecretName == "" {
			continue
		}
		s := in.Secret(i.Namespace, t.SecretName)
		why := ""
		if s == nil {
			why = fmt.Sprintf("Secret %s is not there", t.SecretName)
		} else if pair, err := Pair(s); err != nil {
			why = fmt.Sprintf("Secret %s is none for TLS: %v", t.SecretName, err)
		} else {
			why = unfit(pair, t.SecretName, TLSHosts(i, t), now)
		}
		if why != "" {
			faults = append(faults, Fault{BadSecret, fmt.Sprintf("spec.tls[%d].secretName", n), why})
		}
	}
	return faults
}

// lacks says why a backend cannot be reached; empty: it may be.
func (in Cluster) lacks(namespace string, b Backend) string {
	if b.Service == nil {
		return "resource backends are not supported"
	}
	s := in.Service(namespace, b.Service.Name)
	switch {
	case s == nil:
		return fmt.Sprintf("Service %s is not there", b.Service.Name)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("Service %s is of type ExternalName, to which nothing is sent", s.Name)
	case Port(s, b.Service.Port) == nil && b.Service.Port.Name != "":
		return fmt.Sprintf("Service %s has no port named %s", s.Name, b.Service.Port.Name)
	case Port(s, b.Service.Port) == nil:
		return fmt.Sprintf("Service %s has no port %d", s.Name, b.Service.Port.Number)
	}
	return ""
}

// Pair is the certificate and key of a Secret. The error shows nothing of what is in it.
func Pair(s *corev1.Secret) (*tls.Certificate, error) {
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(s.Data[key]) == 0 {
			return nil, fmt.Errorf("it has no %s", key)
		}
	}
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	switch {
	case err == nil && pair.Leaf != nil:
		return &pair, nil
	case err != nil && strings.Contains(err.Error(), "does not match"):
		return nil, fmt.Errorf("%s is not the key of %s", corev1.TLSPrivateKeyKey, corev1.TLSCertKey)
	}
	return nil, errors.New("they are not a certificate and its key in PEM")
}

// unfit says what clients would not take of a certificate.
func unfit(pair *tls.Certificate, secret string, hosts []string, now time.Time) string {
	if now.After(pair.Leaf.NotAfter) {
		return fmt.Sprintf("the certificate of Secret %s expired on %s", secret, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	for _, host := range hosts {
		// A name below a wildcard stands for all of them.
		if pair.Leaf.VerifyHostname(strings.Replace(host, "*.", "x.", 1)) != nil {
			return fmt.Sprintf("the certificate of Secret %s is not for %s", secret, host)
		}
	}
	return ""
}

// First is the first of the faults, and how many more there are, without the fields: it has to fit into a line.
func First(faults []Fault) string {
	if len(faults) == 1 {
		return faults[0].Message
	}
	return fmt.Sprintf("%s; and %d more", faults[0].Message, len(faults)-1)
}

// Told are the faults in one text of at most limit bytes, the first first.
func Told(faults []Fault, limit int) string {
	text := ""
	for n, f := range faults {
		next := f.String()
		if n > 0 {
			next = "; " + next
		}
		more := fmt.Sprintf("; and %d more", len(faults)-n)
		if len(text)+len(next)+len(more) > limit {
			if n == 0 {
				return strings.ToValidUTF8(next[:min(limit, len(next))], "")
			}
			return text + more
		}
		text += next
	}
	return text
}

// Expiry is when the first of an Ingress's certificates that are good now ends; zero: none does.
func Expiry(i *networkingv1.Ingress, in Cluster, now time.Time) (first time.Time) {
	for _, name := range Secrets(i) {
		s := in.Secret(i.Namespace, name)
		if s == nil {
			continue
		}
		if pair, err := Pair(s); err == nil && pair.Leaf.NotAfter.After(now) && (first.IsZero() || pair.Leaf.NotAfter.Before(first)) {
			first = pair.Leaf.NotAfter
		}
	}
	return first
}
