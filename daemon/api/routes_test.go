package api

import (
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestNothingIsBelowSubresources: a path that goes on behind what it asks for asks for something else.
func TestNothingIsBelowSubresources(t *testing.T) {
	s := newTestServer(t, nil, evictingCluster()...)
	body := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"shop","name":"free-a"}}`
	for _, more := range []string{"/extra", "/../eviction/extra", "/eviction"} {
		code, answer := s.ask(s.program("mover"), "POST", "/api/v1/namespaces/shop/pods/free-a/eviction"+more, body)
		if code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %s", more, code, answer)
		}
	}
	if pod, _ := view.Get[*corev1.Pod](s.store.View(), "shop", "free-a"); pod == nil || pod.DeletionTimestamp != nil {
		t.Error("the pod is evicted")
	}
}

// TestFieldsAreNotTracked: the handlers call the field manager on every write, and it logs each error.
func TestFieldsAreNotTracked(t *testing.T) {
	node := kinds.For[*corev1.Node]()
	scope := scopeFor(node.GroupVersionKind, node.GroupVersionResource(), true)
	old := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	changed := old.DeepCopy()
	changed.Labels = map[string]string{"disk": "fast"}
	got, err := scope.FieldManager.Update(old, changed, "agent")
	if err != nil {
		t.Fatal(err)
	}
	if n := got.(*corev1.Node); len(n.ManagedFields) != 0 || n.Labels["disk"] != "fast" {
		t.Errorf("Update = %+v", n.ObjectMeta)
	}
}
