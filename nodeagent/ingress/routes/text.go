package routes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// String is the table for people, a line for each route, in order.
func (t *Table) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.hosts)) {
		h := t.hosts[name]
		for _, at := range slices.Sorted(maps.Keys(h.exact)) {
			h.exact[at].write(&b, "exact")
		}
		for _, at := range slices.Sorted(maps.Keys(h.prefixes)) {
			h.prefixes[at].write(&b, "prefix")
		}
		for _, r := range h.regexes {
			r.write(&b, "regex")
		}
		if h.fallback != nil {
			h.fallback.write(&b, "else")
		}
	}
	if t.fallback != nil {
		t.fallback.write(&b, "default")
	}
	for _, name := range slices.Sorted(maps.Keys(t.certs)) {
		fmt.Fprintf(&b, "tls %s: %s\n", name, t.certs[name].Leaf.Subject.CommonName)
	}
	return b.String()
}

func (r *Route) write(b *strings.Builder, kind string) {
	fmt.Fprintf(b, "%s %s%s: %s of %s", kind, shown(r.Host), r.Path, shown(r.Backend.Service), r.Ingress)
	if r.TLS {
		b.WriteString(", with TLS")
	}
	fmt.Fprintf(b, ", %s %s\n", r.Backend.Protocol, strings.Join(r.Backend.Endpoints, " "))
}

func shown(name string) string {
	if name == "" {
		return "*"
	}
	return name
}
