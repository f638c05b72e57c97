package ingress

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAnnotationsAreDocumented: the page of Ingresses has each annotation that is acted on.
func TestAnnotationsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/ingress.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Known() {
		if name != "enable-cors" && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/ingress.md has no %s", name)
		}
	}
}

func annotated(pairs ...string) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: map[string]string{}}}
	for n := 0; n+1 < len(pairs); n += 2 {
		i.Annotations[Prefix+pairs[n]] = pairs[n+1]
	}
	return i
}

func withPath(i *networkingv1.Ingress, path string, kind networkingv1.PathType) *networkingv1.Ingress {
	i.Spec.Rules = []networkingv1.IngressRule{{Host: "a", IngressRuleValue: networkingv1.IngressRuleValue{
		HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: path, PathType: &kind}}}}}}
	return i
}

// TestBadAnnotations: what says nothing, or could say something else, is refused by name.
func TestBadAnnotations(t *testing.T) {
	for _, pair := range [][2]string{
		{"configuration-snippet", "x"}, {"auth-url", "http://x"}, {"rewrite-target", "x"}, {"rewrite-target", "/a\nb"},
		{"proxy-body-size", "10q"}, {"proxy-body-size", "-1"}, {"proxy-body-size", ""}, {"proxy-read-timeout", "0"},
		{"proxy-read-timeout", "60s"}, {"ssl-redirect", "yes"}, {"backend-protocol", "FCGI"}, {"permanent-redirect", "/a"},
		{"permanent-redirect", "https://x/$request_uri"}, {"permanent-redirect-code", "200"}, {"whitelist-source-range", "10.0.0.0/33"},
		{"whitelist-source-range", ""}, {"cors-allow-origin", "example.org"}, {"cors-allow-origin", "https://a/b"},
		{"cors-allow-headers", "a\r\nb"}, {"enable-cors", "1"}, {"proxy-buffering", "on"}, {"upstream-vhost", "a/b"},
		{"app-root", "https://x"},
	} {
		_, faults := Read(annotated(pair[0], pair[1]))
		if len(faults) != 1 || faults[0].Field != "metadata.annotations["+Prefix+pair[0]+"]" {
			t.Errorf("%s: %q: %v", pair[0], pair[1], faults)
		}
	}
	exact, own := networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific
	for _, test := range []struct {
		i    *networkingv1.Ingress
		want string
	}{
		{withPath(annotated("use-regex", "true"), "/a(.*)", exact), "needs pathType: ImplementationSpecific"},
		{withPath(annotated("use-regex", "true"), "/a(", own), "missing closing"},
		{withPath(annotated("use-regex", "true"), "/a(?=b)", own), "invalid or unsupported Perl syntax"},
		{withPath(annotated("rewrite-target", "/$2"), "/a(.*)", own), "$2 is of no group"},
		{withPath(annotated("rewrite-target", "/$1"), "/a", exact), "$1 is of no group"},
		{withPath(annotated("rewrite-target", "/$1"), "/a(.*)", own), ""},
	} {
		_, faults := Read(test.i)
		if test.want == "" && len(faults) > 0 || test.want != "" && (len(faults) != 1 || !strings.Contains(faults[0].Message, test.want)) {
			t.Errorf("%v, want %q", faults, test.want)
		}
	}
}

func TestSettings(t *testing.T) {
	s, faults := Read(annotated("proxy-body-size", "8m", "proxy-read-timeout", "3600", "backend-protocol", "grpc", "whitelist-source-range",
		"10.1.2.3/8, 192.0.2.1", "cors-max-age", "5"))
	if len(faults) > 0 || s.Body != 8<<20 || s.Read != time.Hour || s.Protocol != GRPC || s.CORS != nil || !s.ToTLS ||
		len(s.Allow) != 2 || s.Allow[0].String() != "10.0.0.0/8" || s.Allow[1].String() != "192.0.2.1/32" {
		t.Errorf("%+v, %v", s, faults)
	}
}

// TestDefaultClass: the newest that says so, of these the first by name; who names a class has that one, or none.
func TestDefaultClass(t *testing.T) {
	class := func(name, is string, day int) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: Controller}, ObjectMeta: metav1.ObjectMeta{
			Name:              name,
			CreationTimestamp: metav1.NewTime(time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)),
			Annotations:       map[string]string{networkingv1.AnnotationIsDefaultIngressClass: is}}}
	}
	all := ClassesOf([]*networkingv1.IngressClass{class("a", "true", 1), class("c", "true", 2), class("b", "true", 2), class("d", "no", 3)})
	if c := Default(all); c == nil || c.Name != "b" {
		t.Errorf("the default is %v", c)
	}
	none, old := "none", annotated()
	old.Annotations[ClassAnnotation] = "d"
	for want, i := range map[string]*networkingv1.Ingress{
		"b": annotated(), "": {Spec: networkingv1.IngressSpec{IngressClassName: &none}}, "d": old,
	} {
		if c := all.Of(i); (c == nil) != (want == "") || c != nil && c.Name != want {
			t.Errorf("want %q, got %v", want, c)
		}
	}
}

// TestSharedSecretIsNoConflict: Ingresses of a namespace often have one host, and its Secret, together.
func TestSharedSecretIsNoConflict(t *testing.T) {
	make := func(name, namespace, secret string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{Hosts: []string{"a"}, SecretName: secret}}}}
	}
	a, b, c := make("a", "shop", "x"), make("b", "shop", "x"), make("c", "shop", "y")
	h := Arrange([]*networkingv1.Ingress{c, b, a})
	if len(h.Lost(a)) != 0 || len(h.Lost(b)) != 0 || len(h.Lost(c)) != 1 {
		t.Errorf("lost: %v, %v, %v", h.Lost(a), h.Lost(b), h.Lost(c))
	}
}

// TestPairShowsNothing: what is in a Secret that is none for TLS is in no error.
func TestPairShowsNothing(t *testing.T) {
	for _, data := range []map[string][]byte{
		nil, {"tls.crt": []byte("canary")}, {"tls.crt": []byte("canary"), "tls.key": []byte("canary")},
		{"tls.crt": []byte("-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n"), "tls.key": []byte("canary")},
	} {
		_, err := Pair(&corev1.Secret{Data: data})
		if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "Y2Fu") {
			t.Errorf("%v", err)
		}
	}
}

func TestTold(t *testing.T) {
	faults := slices.Repeat([]Fault{{Taken, "spec", strings.Repeat("x", 100)}}, 5)
	if got := Told(faults, 300); len(got) > 300 || !strings.HasSuffix(got, "; and 3 more") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
	if got := Told(faults[:1], 20); len(got) > 20 {
		t.Errorf("%q", got)
	}
}

// TestExpressionsAreBounded: a few bytes cannot take a node's memory, nor a request its time.
func TestExpressionsAreBounded(t *testing.T) {
	const none = "is no regular expression as Go has them (RE2): "
	own := networkingv1.PathTypeImplementationSpecific
	for path, want := range map[string]string{
		"/api/(v[0-9]+)/[0-9a-f]{8}-[0-9a-f]{4}(/.*)?$":     "",
		"/[\\p{L}\\d-]+/(\\p{L}{1,20})":                     "",
		"/(" + strings.Repeat("abcdefghij", 50) + "){1000}": none + "it stands for 501003 parts, and may for 1000",
		"/(\\pL{1000})":                 none + "it stands for 14004 parts, and may for 1000",
		"/" + strings.Repeat("x", 1000): none + "it has 1001 bytes, and may have 1000",
	} {
		_, faults := Read(withPath(annotated("use-regex", "true"), path, own))
		got := ""
		if len(faults) > 0 {
			got = faults[0].Message
		}
		if got != want {
			t.Errorf("%.40s: %q, want %q", path, got, want)
		}
	}
	i := withPath(annotated("use-regex", "true"), "/x{900}", own)
	http := i.Spec.Rules[0].HTTP
	http.Paths = slices.Repeat(http.Paths, 30)
	if _, faults := Read(i); len(faults) != 1 || faults[0].Field != "spec.rules[0].http.paths[22].path" {
		t.Errorf("of 30 large ones: %v", faults)
	}
}

// TestRivalsOfManyHosts: two Ingresses are compared in a time that grows with their hosts, not with its square.
func TestRivalsOfManyHosts(t *testing.T) {
	of := func(name string) *networkingv1.Ingress {
		i := annotated()
		for n := range 40000 {
			i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: fmt.Sprintf("%s-%d.example.org", name, n)})
		}
		return i
	}
	a, b := of("a"), of("b")
	began := time.Now()
	if Rivals(a, b) {
		t.Error("they have no host in common")
	}
	b.Spec.Rules[39999].Host = "A-7.example.ORG"
	if !Rivals(a, b) {
		t.Error("they have a host in common")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
