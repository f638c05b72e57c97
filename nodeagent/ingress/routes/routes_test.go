package routes

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/kinds/ingress"
)

// read makes input of YAML documents; a Secret is a certificate with its name.
func read(t testing.TB, text string) (in Input) {
	t.Helper()
	in.Certificates = map[string]*tls.Certificate{}
	for _, doc := range strings.Split(text, "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		var into any
		switch kind.Kind {
		case "Ingress":
			in.Ingresses = append(in.Ingresses, &networkingv1.Ingress{})
			into = in.Ingresses[len(in.Ingresses)-1]
		case "Service":
			in.Services = append(in.Services, &corev1.Service{})
			into = in.Services[len(in.Services)-1]
		case "EndpointSlice":
			in.Slices = append(in.Slices, &discoveryv1.EndpointSlice{})
			into = in.Slices[len(in.Slices)-1]
		case "Secret":
			into = &corev1.Secret{}
		default:
			t.Fatalf("no kind %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Fatal(err)
		}
		if s, ok := into.(*corev1.Secret); ok {
			in.Certificates[ingress.Name(s)] = &tls.Certificate{Leaf: &x509.Certificate{Subject: pkix.Name{CommonName: ingress.Name(s)}}}
		}
	}
	return in
}

// TestTables: a case has objects in "given", requests in "ask", a line each as "host path", and in "want" the table, and which route each
// request has, with the path that it becomes.
func TestTables(t *testing.T) {
	golden.Cases(t, "testdata", func(t *testing.T, c *txtar.Archive) string {
		in := read(t, golden.Section(c, "given"))
		table := Compile(in)
		out := table.String()
		r := rand.New(rand.NewPCG(1, 2))
		for range 5 {
			r.Shuffle(len(in.Ingresses), func(a, b int) { in.Ingresses[a], in.Ingresses[b] = in.Ingresses[b], in.Ingresses[a] })
			r.Shuffle(len(in.Slices), func(a, b int) { in.Slices[a], in.Slices[b] = in.Slices[b], in.Slices[a] })
			if again := Compile(in).String(); again != out {
				t.Errorf("another order gives another table:\n%s", again)
			}
		}
		for line := range strings.Lines(golden.Section(c, "ask")) {
			host, path, _ := strings.Cut(strings.TrimSpace(line), " ")
			route := table.Match(host, path)
			if route == nil {
				out += fmt.Sprintf("%s %s -> nothing\n", host, path)
				continue
			}
			out += fmt.Sprintf("%s %s -> %s%s (%s), asked for %s\n", host, path, route.Host, route.Path, route.Backend.Service,
				route.Rewritten(path))
		}
		return out
	})
}

// FuzzMatch: whatever is stated and asked for, what is found fits, and what is cleaned stays so.
func FuzzMatch(f *testing.F) {
	f.Add("example.org", "/a", "Prefix", "", "example.org:80", "/a/b")
	f.Add("*.example.org", "/a(/|$)(.*)", "ImplementationSpecific", "/$2", "x.example.org", "/a/../a//c")
	f.Add("", "/", "Exact", "", "[::1]:80", "//")
	f.Fuzz(func(t *testing.T, host, path, kind, rewrite, asked, at string) {
		pathType := networkingv1.PathType(kind)
		i := &networkingv1.Ingress{}
		i.Namespace, i.Name = "shop", "web"
		if rewrite != "" {
			i.Annotations = map[string]string{ingress.Prefix + "rewrite-target": rewrite}
		}
		i.Spec.Rules = []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: path, PathType: &pathType}}}}}}
		if _, faults := ingress.Read(i); len(faults) > 0 {
			return
		}
		table := Compile(Input{Ingresses: []*networkingv1.Ingress{i}})
		if clean(clean(at)) != clean(at) || strings.Contains(clean(at)+"/", "/../") {
			t.Errorf("%q is cleaned to %q", at, clean(at))
		}
		r := table.Match(asked, at)
		if r == nil {
			return
		}
		name := Host(asked)
		if r.Host != "" && r.Host != name && !(strings.HasPrefix(r.Host, "*.") && strings.HasSuffix(name, r.Host[1:])) {
			t.Errorf("%q is served as %q", asked, r.Host)
		}
		if r.regex == nil && pathType != networkingv1.PathTypeExact && !strings.HasPrefix(clean(at)+"/", ingress.Trim(path)+"/") {
			t.Errorf("%q is served as %q", at, path)
		}
		if to := r.Rewritten(at); rewrite != "" && !strings.HasPrefix(to, "/") {
			t.Errorf("%q becomes %q", at, to)
		}
	})
}

// hosts are n Ingresses, each with a host, a service and two pods.
func hosts(n int) (in Input) {
	prefix, port := networkingv1.PathTypePrefix, int32(8080)
	for k := range n {
		name := fmt.Sprintf("web-%d", k)
		i := &networkingv1.Ingress{}
		i.Namespace, i.Name = "shop", name
		i.Spec.Rules = []networkingv1.IngressRule{{Host: name + ".example.org", IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix,
				Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name,
					Port: networkingv1.ServiceBackendPort{Number: 80}}}}}}}}}
		s := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		s.Namespace, s.Name = "shop", name
		slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.1"}}, {Addresses: []string{"10.42.0.2"}}}}
		slice.Namespace, slice.Name, slice.Labels = "shop", name, map[string]string{discoveryv1.LabelServiceName: name}
		in.Ingresses, in.Services, in.Slices = append(in.Ingresses, i), append(in.Services, s), append(in.Slices, slice)
	}
	return in
}

// BenchmarkCompile compiles 1,000 hosts anew.
func BenchmarkCompile(b *testing.B) {
	in := hosts(1000)
	for b.Loop() {
		Compile(in)
	}
}

func BenchmarkMatch(b *testing.B) {
	table := Compile(hosts(1000))
	for b.Loop() {
		if table.Match("web-500.example.org:80", "/a/b/c") == nil {
			b.Fatal("nothing")
		}
	}
}
