package api

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/store"
)

// BenchmarkNodePods lists one node's pods among 100,000 through the TLS API, as an agent does. The goal is 5 ms.
func BenchmarkNodePods(b *testing.B) {
	const nodes, each = 1000, 100
	s := newTestServer(b, nil)
	for n := range nodes {
		var group store.Group
		for i := range each {
			p := testPod("shop", fmt.Sprintf("p-%d-%d", n, i), fmt.Sprint("n", n))
			group = append(group, put(p))
		}
		s.commit(group...)
	}
	if _, err := s.server.hub.Wait(b.Context(), s.store.View().Revision()); err != nil {
		b.Fatal(err)
	}
	config := s.viewer()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	pods := client(b, config).CoreV1().Pods("")
	for n := 0; b.Loop(); n++ {
		list, err := pods.List(b.Context(), metav1.ListOptions{FieldSelector: fmt.Sprint("spec.nodeName=n", n%nodes)})
		if err != nil || len(list.Items) != each {
			b.Fatal(len(list.Items), err)
		}
	}
}
