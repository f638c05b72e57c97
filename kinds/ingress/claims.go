package ingress

import (
	"cmp"
	"fmt"
	"iter"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// Claim is what only one Ingress can have.
type Claim struct {
	// Kind is "Exact", "Prefix" or "regex" for a path of a host, "tls" for what a host shows for TLS, "default" for what is served
	// where no rule fits.
	Kind string
	// Host is in lower case; empty: any. Path is empty but for paths.
	Host, Path string
}

// String is "host example.org, path /cart", as it is told to people.
func (c Claim) String() string {
	host := "any host"
	if c.Host != "" {
		host = "host " + c.Host
	}
	switch c.Kind {
	case "tls":
		return "TLS of " + host
	case "default":
		return "the default backend"
	}
	return fmt.Sprintf("%s, path %s (%s)", host, cmp.Or(c.Path, "/"), c.Kind)
}

// claimed is a claim with the field that states it; what states the same and is the same for both is none to quarrel about.
type claimed struct {
	Claim
	field, same string
}

// PathClaim is the claim of a path of a host.
func (s Settings) PathClaim(host string, p networkingv1.HTTPIngressPath) Claim {
	host = strings.ToLower(host)
	switch {
	case s.Expression(p):
		return Claim{"regex", host, p.Path}
	case p.PathType != nil && *p.PathType == networkingv1.PathTypeExact:
		return Claim{"Exact", host, p.Path}
	}
	return Claim{"Prefix", host, Trim(p.Path)}
}

// Trim is a path for which a prefix is the same whether it ends in a slash or not; "/" is empty.
func Trim(path string) string { return strings.TrimRight(path, "/") }

// TLSHosts are the hosts for which an entry of spec.tls is: those that it names, else those of the rules.
func TLSHosts(i *networkingv1.Ingress, t networkingv1.IngressTLS) []string {
	hosts := t.Hosts
	if len(hosts) == 0 {
		for _, r := range i.Spec.Rules {
			if r.Host != "" {
				hosts = append(hosts, r.Host)
			}
		}
	}
	out := make([]string, len(hosts))
	for n, h := range hosts {
		out[n] = strings.ToLower(h)
	}
	return out
}

func claimsOf(i *networkingv1.Ingress) (out []claimed) {
	s, _ := Read(i)
	if i.Spec.DefaultBackend != nil && len(i.Spec.Rules) == 0 {
		out = append(out, claimed{Claim{Kind: "default"}, "spec.defaultBackend", ""})
	}
	for r, rule := range i.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for p, path := range rule.HTTP.Paths {
			out = append(out, claimed{s.PathClaim(rule.Host, path), pathOf(r, p), ""})
		}
	}
	for n, t := range i.Spec.TLS {
		if t.SecretName == "" {
			continue
		}
		for _, host := range TLSHosts(i, t) {
			out = append(out, claimed{Claim{Kind: "tls", Host: host}, fmt.Sprintf("spec.tls[%d]", n), i.Namespace + "/" + t.SecretName})
		}
	}
	return out
}

// Holders are the Ingresses that have what they claim.
type Holders struct {
	by map[Claim]holder
}

type holder struct {
	ingress *networkingv1.Ingress
	same    string
}

// Arrange gives each claim to the oldest of the Ingresses that make it.
func Arrange(all []*networkingv1.Ingress) Holders {
	h := Holders{make(map[Claim]holder, len(all))}
	for _, i := range Sorted(all) {
		for _, c := range claimsOf(i) {
			if _, taken := h.by[c.Claim]; !taken {
				h.by[c.Claim] = holder{i, c.same}
			}
		}
	}
	return h
}

// Has says that an Ingress has what it claims.
func (h Holders) Has(i *networkingv1.Ingress, c Claim) bool {
	by, ok := h.by[c]
	return ok && Name(by.ingress) == Name(i)
}

// Lost are the claims of an Ingress that others have, told as faults.
func (h Holders) Lost(i *networkingv1.Ingress) (faults []Fault) {
	for _, c := range claimsOf(i) {
		if by, ok := h.by[c.Claim]; ok && Name(by.ingress) != Name(i) && (c.same == "" || by.same != c.same) {
			why := fmt.Sprintf("%v belongs to Ingress %s, which is older", c.Claim, Name(by.ingress))
			faults = append(faults, Fault{Taken, c.field, why})
		}
	}
	return faults
}

// Rivals says that two Ingresses may claim the same: they have a host in common, or both have rules for any.
func Rivals(a, b *networkingv1.Ingress) bool {
	of := map[string]bool{}
	for host := range hostsOf(a) {
		of[strings.ToLower(host)] = true
	}
	for host := range hostsOf(b) {
		if of[strings.ToLower(host)] {
			return true
		}
	}
	return false
}

// hostsOf are the hosts for which an Ingress has rules or TLS, some more than once; any host is empty.
func hostsOf(i *networkingv1.Ingress) iter.Seq[string] {
	return func(yield func(string) bool) {
		if i.Spec.DefaultBackend != nil && !yield("") {
			return
		}
		for n := range i.Spec.Rules {
			if !yield(i.Spec.Rules[n].Host) {
				return
			}
		}
		for n := range i.Spec.TLS {
			for _, host := range i.Spec.TLS[n].Hosts {
				if !yield(host) {
					return
				}
			}
		}
	}
}
