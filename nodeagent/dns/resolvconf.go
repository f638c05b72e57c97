package dns

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/dns/names"
)

// The limits that Kubernetes sets, which are those of resolvers in use.
const (
	searchesMost     = 32
	searchCharacters = 2048
)

// resolv is a resolv.conf(5) in the making.
type resolv names.Resolv

// ResolvConf is the text of a pod's /etc/resolv.conf by its dnsPolicy and dnsConfig, as the kubelet
// writes it. hostResolv is the text of the node's own file. Without any clusterDNS the policies of
// the cluster are that of the node.
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy)
func ResolvConf(pod *corev1.Pod, clusterDNS []netip.Addr, domain, hostResolv string) string {
	host := resolv(names.ParseResolv(hostResolv))
	out := host
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || (policy == corev1.DNSClusterFirst || policy == "") && !pod.Spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
		out = resolv{}
	case cluster && len(clusterDNS) > 0:
		domain = strings.Trim(domain, ".")
		out = resolv{
			Searches: append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.Searches...),
			Options:  []string{"ndots:5"},
		}
		for _, a := range clusterDNS {
			out.Nameservers = append(out.Nameservers, a.String())
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Nameservers = append(slices.Clone(out.Nameservers), c.Nameservers...)
		out.Searches = append(slices.Clone(out.Searches), c.Searches...)
		out.Options = mergeOptions(out.Options, c.Options)
	}
	return out.String()
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
	searches := names.FirstFew(r.Searches, searchesMost)
	for len(strings.Join(searches, " ")) > searchCharacters {
		searches = searches[:len(searches)-1]
	}
	if len(searches) > 0 {
		b.WriteString("search " + strings.Join(searches, " ") + "\n")
	}
	for _, n := range names.FirstFew(r.Nameservers, names.NameserversMost) {
		b.WriteString("nameserver " + n + "\n")
	}
	if len(r.Options) > 0 {
		b.WriteString("options " + strings.Join(r.Options, " ") + "\n")
	}
	return b.String()
}
