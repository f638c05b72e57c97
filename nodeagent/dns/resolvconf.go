package dns

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The limits that Kubernetes sets, which are those of resolvers in use.
const (
	nameserversMost  = 3
	searchesMost     = 32
	searchCharacters = 2048
)

// resolv is a resolv.conf(5).
type resolv struct{ nameservers, searches, options []string }

// ResolvConf is the text of a pod's /etc/resolv.conf by its dnsPolicy and dnsConfig, as the kubelet
// writes it. hostResolv is the text of the node's own file. Without any clusterDNS the policies of
// the cluster are that of the node.
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy)
func ResolvConf(pod *corev1.Pod, clusterDNS []netip.Addr, domain, hostResolv string) string {
	host := parseResolv(hostResolv)
	out := host
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || (policy == corev1.DNSClusterFirst || policy == "") && !pod.Spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
		out = resolv{}
	case cluster && len(clusterDNS) > 0:
		domain = strings.Trim(domain, ".")
		out = resolv{
			searches: append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.searches...),
			options:  []string{"ndots:5"},
		}
		for _, a := range clusterDNS {
			out.nameservers = append(out.nameservers, a.String())
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.nameservers = append(slices.Clone(out.nameservers), c.Nameservers...)
		out.searches = append(slices.Clone(out.searches), c.Searches...)
		out.options = mergeOptions(out.options, c.Options)
	}
	return out.String()
}

// parseResolv reads what resolvers read: of search and domain the last line counts, of options all.
func parseResolv(text string) resolv {
	var r resolv
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.nameservers = append(r.nameservers, fields[1])
		case "search":
			r.searches = nil
			for _, s := range fields[1:] {
				if s = strings.TrimSuffix(s, "."); s != "" {
					r.searches = append(r.searches, s)
				}
			}
		case "domain":
			r.searches = []string{strings.TrimSuffix(fields[1], ".")}
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

// mergeOptions lets the pod's value of an option replace the one before.
func mergeOptions(before []string, more []corev1.PodDNSConfigOption) []string {
	out := slices.Clone(before)
	for _, o := range more {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		same := func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name }
		if i := slices.IndexFunc(out, same); i >= 0 {
			out[i] = text
		} else {
			out = append(out, text)
		}
	}
	return out
}

func (r resolv) String() string {
	var b strings.Builder
	searches := firstFew(r.searches, searchesMost)
	for len(strings.Join(searches, " ")) > searchCharacters {
		searches = searches[:len(searches)-1]
	}
	if len(searches) > 0 {
		b.WriteString("search " + strings.Join(searches, " ") + "\n")
	}
	for _, n := range firstFew(r.nameservers, nameserversMost) {
		b.WriteString("nameserver " + n + "\n")
	}
	if len(r.options) > 0 {
		b.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return b.String()
}

// firstFew keeps the first n distinct items.
func firstFew(list []string, n int) []string {
	var out []string
	for _, s := range list {
		if len(out) < n && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
