package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/nodeagent/dns/names"
)

// TestAnswer compares what a zone says to each question; the answer's lines are indented under it.
func TestAnswer(t *testing.T) {
	golden.Sections(t, "testdata", func(t *testing.T, c *txtar.Archive) []txtar.File {
		z := names.NewZone(DataOf("Cluster.Local.", readState(t, golden.Section(c, "objects.yaml"))))
		var b strings.Builder
		for line := range strings.Lines(golden.Section(c, "answers")) {
			if strings.HasPrefix(line, " ") {
				continue
			}
			kind, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			b.WriteString(line)
			describe(&b, z.Answer(dns.Question{Name: name, Qtype: dns.StringToType[kind], Qclass: dns.ClassINET}, 0))
		}
		return []txtar.File{{Name: "answers", Data: []byte(b.String())}}
	})
}

func describe(b *strings.Builder, a names.Answer) {
	if !a.Ours {
		b.WriteString("  upstream\n")
		return
	}
	fmt.Fprintf(b, "  %s\n", dns.RcodeToString[a.Rcode])
	for _, list := range []struct {
		name    string
		records []dns.RR
	}{{"", a.Records}, {"extra: ", a.Extra}} {
		for _, rr := range list.records {
			fmt.Fprintf(b, "  %s%s\n", list.name, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	if a.SOA != nil {
		b.WriteString("  with SOA\n")
	}
	if a.Follow != "" {
		fmt.Fprintf(b, "  upstream for %s\n", a.Follow)
	}
}

func readState(t *testing.T, text string) State {
	t.Helper()
	s := State{
		Namespaces: []string{"shop", "default"},
		Networks:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("10.42.0.0/16")},
	}
	for doc := range strings.SplitSeq(text, "---\n") {
		if strings.HasPrefix(doc, "kind: Service\n") {
			o := &corev1.Service{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			s.Services = append(s.Services, o)
		} else {
			o := &discoveryv1.EndpointSlice{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			s.Slices = append(s.Slices, o)
		}
	}
	return s
}

// many is a headless service with n endpoints.
func many(n int) State {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "many"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "many-1", Labels: map[string]string{discoveryv1.LabelServiceName: "many"}},
	}
	for i := range n {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.%d.%d", i/200, 1+i%200)}})
	}
	return State{Services: []*corev1.Service{svc}, Slices: []*discoveryv1.EndpointSlice{s}}
}

func TestRotation(t *testing.T) {
	z := names.NewZone(DataOf("cluster.local", many(4)))
	first := map[string]int{}
	for seed := range uint32(8) {
		a := z.Answer(dns.Question{Name: "many.shop.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, seed)
		if len(a.Records) != 4 {
			t.Fatalf("%d records", len(a.Records))
		}
		first[a.Records[0].(*dns.A).A.String()]++
	}
	if len(first) != 4 {
		t.Fatalf("first addresses: %v", first)
	}
}

func TestResolvConf(t *testing.T) {
	const host = "# written by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org. corp.example.org\n" +
		"options timeout:1 rotate\n"
	clusterDNS := []netip.Addr{netip.MustParseAddr("10.43.0.10")}
	two := "2"
	config := &corev1.PodDNSConfig{
		Nameservers: []string{"192.0.2.1", "192.0.2.9"}, Searches: []string{"more.example.org"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}},
	}
	const first = "search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example.org\n" +
		"nameserver 10.43.0.10\noptions ndots:5\n"
	const hosts = "search example.org corp.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions timeout:1 rotate\n"
	tests := []struct {
		what string
		spec corev1.PodSpec
		want string
	}{
		{"no policy", corev1.PodSpec{}, first},
		{"ClusterFirst", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, first},
		{"ClusterFirst in the node's network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, hosts},
		{"ClusterFirstWithHostNet", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, first},
		{"Default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, hosts},
		{"None", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: config},
			"search more.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"},
		{"Default with more", corev1.PodSpec{DNSPolicy: corev1.DNSDefault, DNSConfig: config},
			"search example.org corp.example.org more.example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.9\n" +
				"options timeout:1 rotate ndots:2 edns0\n"},
		{"ClusterFirst with more", corev1.PodSpec{DNSConfig: config},
			"search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example.org more.example.org\n" +
				"nameserver 10.43.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}, Spec: test.spec}
			for range 2 { // the second time shows that the first changed nothing
				if d := gocmp.Diff(test.want, ResolvConf(pod, clusterDNS, "cluster.local", host)); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
