package api

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// TestNodesSeeOfNodesWhatTheyNeed: names, labels, pod ranges and addresses, in lists and watches; what changes of a node
// besides is no event for the others. A node's own get, and people, have it whole.
func TestNodesSeeOfNodesWhatTheyNeed(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	full := func(change func(*corev1.Node)) kinds.Object {
		n := testNode("n7")
		n.Labels, n.Annotations = map[string]string{"zone": "a"}, map[string]string{"note": "long"}
		n.Spec = corev1.NodeSpec{PodCIDR: "10.42.7.0/24", PodCIDRs: []string{"10.42.7.0/24"}, Unschedulable: true}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.60.7"}}
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"registry.example/big"}}}
		change(n)
		return n
	}
	s.put(full(func(*corev1.Node) {}))
	node, person := client(t, s.node("n1")).CoreV1().Nodes(), client(t, s.viewer()).CoreV1().Nodes()
	list, err := node.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lean := list.Items[len(list.Items)-1]
	want := corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: "n7", UID: lean.UID, ResourceVersion: lean.ResourceVersion, CreationTimestamp: lean.CreationTimestamp,
			Labels: map[string]string{"zone": "a"},
		},
		Spec:   corev1.NodeSpec{PodCIDR: "10.42.7.0/24", PodCIDRs: []string{"10.42.7.0/24"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.60.7"}}},
	}
	if lean.UID == "" || !equality.Semantic.DeepEqual(lean, want) {
		t.Errorf("a node lists %+v, want %+v", lean, want)
	}
	whole, err := person.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := whole.Items[len(whole.Items)-1]; len(n.Status.Images) != 1 || n.Annotations["note"] != "long" {
		t.Errorf("a person lists %+v", n)
	}
	if n, err := node.Get(t.Context(), "n7", metav1.GetOptions{}); err != nil || len(n.Status.Images) != 1 {
		t.Errorf("a node gets %+v, %v", n, err)
	}

	from := metav1.ListOptions{ResourceVersion: list.ResourceVersion}
	theirs, err := node.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Stop()
	ours, err := person.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Stop()
	s.put(full(func(n *corev1.Node) { n.Status.Images = nil }))
	s.put(full(func(n *corev1.Node) { n.Spec.Unschedulable = false }))
	s.put(full(func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.168.60.8" }))
	s.commit(s.remove(testNode("n7")))
	expect(t, "a person", take(t, ours, 4), "MODIFIED n7", "MODIFIED n7", "MODIFIED n7", "DELETED n7")
	for i, wantType := range []string{"MODIFIED", "DELETED"} {
		select {
		case e := <-theirs.ResultChan():
			n, ok := e.Object.(*corev1.Node)
			if !ok || string(e.Type) != wantType || n.Name != "n7" ||
				n.Status.Addresses[0].Address != "192.168.60.8" || len(n.Status.Images) != 0 || len(n.Annotations) != 0 {
				t.Errorf("event %d is %s %+v", i, e.Type, e.Object)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
		}
	}
}
