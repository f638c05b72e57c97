package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

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
