package api

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"lockstep/kinds"
)

func TestGetAndList(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		config := s.viewer()
		config.ContentType = contentType
		config.AcceptContentTypes = contentType + ",application/json"
		c := client(t, config)
		pod, err := c.CoreV1().Pods("shop").Get(t.Context(), "cart-1-a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pod.Spec.NodeName != "n1" || pod.ResourceVersion == "" {
			t.Errorf("got pod %v at %q", pod.Spec.NodeName, pod.ResourceVersion)
		}
		list, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=n2"})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Name != "cart-1-b" {
			t.Errorf("pods on n2: %v", list.Items)
		}
		if _, err := c.CoreV1().Secrets("shop").List(t.Context(), metav1.ListOptions{}); err == nil ||
			!strings.Contains(err.Error(), "cannot list") {
			t.Errorf("listing secrets as a viewer: %v", err)
		}
	}
}

func TestDiscovery(t *testing.T) {
	s := newTestServer(t, nil)
	c := client(t, s.viewer()).Discovery()
	aggregated, err := discovery.ServerPreferredResources(c)
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := discovery.ServerPreferredResources(c.WithLegacy())
	if err != nil {
		t.Fatal(err)
	}
	names := func(lists []*metav1.APIResourceList) []string {
		var out []string
		for _, l := range lists {
			for _, r := range l.APIResources {
				out = append(out, l.GroupVersion+" "+r.Kind+" "+r.Name+" "+strings.Join(r.ShortNames, ",")+" "+strings.Join(r.Verbs, ","))
			}
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff(names(legacy), names(aggregated)); diff != "" || len(names(legacy)) < len(kinds.All) {
		t.Errorf("the two forms of discovery differ (-legacy +aggregated):\n%s", diff)
	}
	version, err := c.ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	release, _, found := strings.Cut(version.GitVersion, "+lockstep")
	modules, err := os.ReadFile("../../go.mod")
	if err != nil || !found || !strings.Contains(string(modules), "\tk8s.io/kubernetes "+release+"\n") {
		t.Errorf("version %v, %v", version, err)
	}
}
