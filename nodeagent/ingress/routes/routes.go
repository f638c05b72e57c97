// Package routes compiles Ingresses, and what they name, into a table by which requests are served.
package routes

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"lockstep/kinds/ingress"
)

// Input is what a table is made of.
type Input struct {
	// Ingresses are those that this node serves.
	Ingresses []*networkingv1.Ingress
	Services  []*corev1.Service
	Slices    []*discoveryv1.EndpointSlice
	// Certificates are those of Secrets, by namespace/name.
	Certificates map[string]*tls.Certificate
}

// Chosen are the Ingresses that a node of these labels is to serve.
func Chosen(all []*networkingv1.Ingress, classes []*networkingv1.IngressClass, node map[string]string) (out []*networkingv1.Ingress) {
	known := ingress.ClassesOf(classes)
	for _, i := range all {
		if c := known.Of(i); ingress.Owned(c) && i.DeletionTimestamp == nil && ingress.Selects(c, node) {
			out = append(out, i)
		}
	}
	return out
}

// Table says where requests go. It is never changed; its zero value knows no host.
type Table struct {
	hosts    map[string]*host // by name, or "*.example.org"; any host is ""
	fallback *Route
	certs    map[string]*tls.Certificate // as hosts
}

// host has the routes of one.
type host struct {
	exact    map[string]*Route
	prefixes map[string]*Route // by path without a slash at its end
	longest  int               // of prefixes
	regexes  []*Route          // the longest text first
	fallback *Route
}

// Route is what is done with requests that it fits.
type Route struct {
	// Ingress is the namespace/name of whose route it is; Host and Path as it states them, Path without expressions' beginning.
	Ingress, Host, Path string
	Settings            ingress.Settings
	// TLS says that the host has TLS, as stated.
	TLS     bool
	Backend Backend
	regex   *regexp.Regexp
}

// Backend is the pods of a service.
type Backend struct {
	Service string // namespace/name
	// Endpoints are addresses with ports, in order. None: nobody is there to answer.
	Endpoints []string
	Protocol  ingress.Protocol
}

// Compile makes the table. Input in any order gives the same.
func Compile(in Input) *Table {
	c := compiler{in: in, holders: ingress.Arrange(in.Ingresses), services: map[string]*corev1.Service{},
		slices: map[string][]*discoveryv1.EndpointSlice{}, known: map[string]Backend{},
		table: &Table{hosts: map[string]*host{}, certs: map[string]*tls.Certificate{}}}
	for _, s := range in.Services {
		c.services[ingress.Name(s)] = s
	}
	for _, s := range in.Slices {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
			c.slices[s.Namespace+"/"+name] = append(c.slices[s.Namespace+"/"+name], s)
		}
	}
	sorted := ingress.Sorted(in.Ingresses)
	secured := c.certificates(sorted)
	for _, i := range sorted {
		c.ingress(i, secured)
	}
	for _, h := range c.table.hosts {
		slices.SortStableFunc(h.regexes, func(a, b *Route) int {
			return cmp.Or(cmp.Compare(len(b.Path), len(a.Path)), cmp.Compare(a.Path, b.Path))
		})
	}
	return c.table
}

type compiler struct {
	in       Input
	holders  ingress.Holders
	services map[string]*corev1.Service
	slices   map[string][]*discoveryv1.EndpointSlice
	known    map[string]Backend
	table    *Table
}

// certificates gives hosts their certificates, and says which hosts are to have one.
func (c *compiler) certificates(sorted []*networkingv1.Ingress) map[string]bool {
	secured := map[string]bool{}
	for _, i := range sorted {
		for _, t := range i.Spec.TLS {
			for _, name := range ingress.TLSHosts(i, t) {
				secured[name] = true
				pair := c.in.Certificates[i.Namespace+"/"+t.SecretName]
				if pair != nil && c.table.certs[name] == nil && c.holders.Has(i, ingress.Claim{Kind: "tls", Host: name}) {
					c.table.certs[name] = pair
				}
			}
		}
	}
	return secured
}

// ingress adds the routes of one that nobody before it has.
func (c *compiler) ingress(i *networkingv1.Ingress, secured map[string]bool) {
	settings, _ := ingress.Read(i)
	route := func(name, path string, b *networkingv1.IngressBackend) *Route {
		return &Route{Ingress: ingress.Name(i), Host: name, Path: path, Settings: settings, TLS: has(secured, name),
			Backend: c.backend(i.Namespace, b, settings.Protocol)}
	}
	if b := i.Spec.DefaultBackend; b != nil {
		first := c.holders.Has(i, ingress.Claim{Kind: "default"})
		if r := route("", "", b); c.table.fallback == nil || first {
			c.table.fallback = r
		}
	}
	for _, rule := range i.Spec.Rules {
		name := strings.ToLower(rule.Host)
		h := c.table.hosts[name]
		if h == nil {
			h = &host{exact: map[string]*Route{}, prefixes: map[string]*Route{}}
			c.table.hosts[name] = h
		}
		if b := i.Spec.DefaultBackend; b != nil && name != "" && h.fallback == nil {
			h.fallback = route(name, "", b)
		}
		if rule.HTTP == nil {
			continue
		}
		for n := range rule.HTTP.Paths {
			p := &rule.HTTP.Paths[n]
			if claim := settings.PathClaim(name, *p); c.holders.Has(i, claim) {
				h.add(claim, route(name, p.Path, &p.Backend))
			}
		}
	}
}

// add adds a route unless the same Ingress has stated one for the same.
func (h *host) add(claim ingress.Claim, r *Route) {
	switch claim.Kind {
	case "Exact":
		if h.exact[claim.Path] == nil {
			h.exact[claim.Path] = r
		}
	case "regex":
		re, err := ingress.Compile(claim.Path)
		if err == nil && !slices.ContainsFunc(h.regexes, func(o *Route) bool { return o.Path == r.Path }) {
			r.regex = re
			h.regexes = append(h.regexes, r)
		}
	default:
		if h.prefixes[claim.Path] == nil {
			h.prefixes[claim.Path] = r
			h.longest = max(h.longest, len(claim.Path))
		}
	}
}

// backend is the endpoints of a service's port; those of one that is not there are none.
func (c *compiler) backend(namespace string, b *networkingv1.IngressBackend, protocol ingress.Protocol) Backend {
	if b.Service == nil {
		return Backend{Protocol: protocol}
	}
	number := strconv.Itoa(int(b.Service.Port.Number))
	key := strings.Join([]string{namespace, b.Service.Name, b.Service.Port.Name, number, string(protocol)}, "/")
	if known, ok := c.known[key]; ok {
		return known
	}
	out := Backend{Service: namespace + "/" + b.Service.Name, Protocol: protocol}
	if s := c.services[out.Service]; s != nil && s.Spec.Type != corev1.ServiceTypeExternalName {
		if port := ingress.Port(s, b.Service.Port); port != nil {
			if protocol == ingress.HTTP && port.AppProtocol != nil && *port.AppProtocol == "kubernetes.io/h2c" {
				out.Protocol = ingress.GRPC
			}
			out.Endpoints = endpoints(c.slices[out.Service], port)
		}
	}
	c.known[key] = out
	return out
}

// endpoints are those that are ready, or where none is, those that still serve while they end.
func endpoints(all []*discoveryv1.EndpointSlice, port *corev1.ServicePort) []string {
	var ready, ending []string
	for _, s := range all {
		for _, p := range s.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port.Name || p.Name == nil && port.Name != "" ||
				p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
				continue
			}
			for _, e := range s.Endpoints {
				is := e.Conditions
				for _, a := range e.Addresses {
					addr, err := netip.ParseAddr(a)
					if err != nil {
						continue
					}
					at := netip.AddrPortFrom(addr, uint16(*p.Port)).String()
					switch {
					case is.Ready == nil || *is.Ready:
						ready = append(ready, at)
					case is.Serving != nil && *is.Serving && is.Terminating != nil && *is.Terminating:
						ending = append(ending, at)
					}
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

// has looks a host up: by its name, or the wildcard above it.
func has[T any](in map[string]T, name string) (found T) {
	if v, ok := in[name]; ok {
		return v
	}
	if _, rest, ok := strings.Cut(name, "."); ok && !strings.HasPrefix(name, "*.") {
		return in["*."+rest]
	}
	return found
}

// Empty says that there is nothing to serve.
func (t *Table) Empty() bool { return len(t.hosts) == 0 && t.fallback == nil }

// Certificate is what is shown to who asks for a host by TLS; nil: there is none for it.
func (t *Table) Certificate(name string) *tls.Certificate {
	return has(t.certs, Host(name))
}

// Host is the name of a Host header: without its port, in lower case.
func Host(header string) string {
	name := header
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.IndexByte(name[i:], ']') < 0 {
		name = name[:i]
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// Match is the route of a request for a decoded path; nil: there is none. Of hosts the exact one comes first, then the wildcard, then any;
// of paths an exact one, then the longest. What stands for another path, as /a/../b, is matched as that one.
func (t *Table) Match(header, at string) *Route {
	at, name := clean(at), Host(header)
	_, rest, dotted := strings.Cut(name, ".")
	var named *host
	for _, try := range [...]string{name, "*." + rest, ""} {
		h := t.hosts[try]
		if h == nil || !dotted && strings.HasPrefix(try, "*.") {
			continue
		}
		if r := h.match(at); r != nil {
			return r
		}
		if named == nil && try != "" {
			named = h
		}
	}
	if named != nil && named.fallback != nil {
		return named.fallback
	}
	return t.fallback
}

func (h *host) match(at string) *Route {
	if r := h.exact[at]; r != nil {
		return r
	}
	prefix := h.prefix(at)
	for _, r := range h.regexes {
		if prefix != nil && len(prefix.Path) > len(r.Path) {
			break
		}
		if r.regex.MatchString(at) {
			return r
		}
	}
	return prefix
}

// prefix is the route of the longest path that is one, element by element.
func (h *host) prefix(at string) *Route {
	at = ingress.Trim(at)
	for {
		if len(at) <= h.longest {
			if r := h.prefixes[at]; r != nil {
				return r
			}
		}
		i := strings.LastIndexByte(at, '/')
		if i < 0 {
			return nil
		}
		at = at[:i]
	}
}

// clean is a path without elements that stand for others.
func clean(at string) string {
	if !strings.Contains(at, "/.") && !strings.Contains(at, "//") && strings.HasPrefix(at, "/") {
		return at
	}
	out := path.Clean("/" + at)
	if strings.HasSuffix(at, "/") && out != "/" {
		out += "/"
	}
	return out
}

// Rewritten is the path that a request's becomes.
func (r *Route) Rewritten(at string) string {
	switch {
	case r.Settings.Rewrite == "":
		return at
	case r.regex == nil:
		return r.Settings.Rewrite
	}
	at = clean(at)
	match := r.regex.FindStringSubmatch(at)
	var out strings.Builder
	for i := 0; i < len(r.Settings.Rewrite); i++ {
		c := r.Settings.Rewrite[i]
		if c == '$' && i+1 < len(r.Settings.Rewrite) {
			if n := int(r.Settings.Rewrite[i+1] - '0'); n >= 1 && n <= 9 {
				if i++; n < len(match) {
					out.WriteString(match[n])
				}
				continue
			}
		}
		out.WriteByte(c)
	}
	if !strings.HasPrefix(out.String(), "/") {
		return "/" + out.String()
	}
	return out.String()
}
