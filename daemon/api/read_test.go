package api

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		if _, err := c.CoreV1().Secrets("shop").List(t.Context(), metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), "cannot list") {
			t.Errorf("listing secrets as a viewer: %v", err)
		}
	}
}
