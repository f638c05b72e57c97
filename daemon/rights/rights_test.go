package rights

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"lockstep/store/view"
)

// TestDecide asks for one thing of each kind; what each role may of every resource is a golden file of the API's.
func TestDecide(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.PodSpec{NodeName: "n1",
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}}}
	v := view.Of(pod)
	nobody, viewer, n1, n2 := Subject{}, Subject{Role: Viewer}, Subject{Role: Node, Node: "n1"}, Subject{Role: Node, Node: "n2"}
	own := fields.OneTermEqualSelector("spec.nodeName", "n1")
	key := Access{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "key"}
	status := Access{Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "shop", Name: "cart"}
	for _, test := range []struct {
		who    Subject
		access Access
		want   string
	}{
		{nobody, Access{Verb: "get", Path: "/readyz/etcd"}, "0 "},
		{nobody, Access{Verb: "post", Path: HookPath}, "0 "},
		{nobody, Access{Verb: "get", Path: "/metrics"}, "1 Unauthorized"},
		{nobody, Access{Verb: "list", Resource: "pods"}, "1 Unauthorized"},
		{viewer, Access{Verb: "list", Resource: "pods"}, "0 "},
		{viewer, key, "2 viewers cannot read Secrets"},
		{viewer, Access{Verb: "delete", Resource: "pods", Namespace: "shop", Name: "cart"}, "3 "},
		{viewer, Access{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}, "0 "},
		{viewer, Access{Verb: "get", Path: TunnelPath}, "2 only a node may"},
		{n1, Access{Verb: "get", Path: TunnelPath}, "0 "},
		{n1, key, "0 "},
		{n2, key, "2 no pod that is bound to this node refers to it"},
		{n1, Access{Verb: "watch", Resource: "pods", Fields: own}, "0 "},
		{n2, Access{Verb: "watch", Resource: "pods", Fields: own},
			"2 a node lists only the pods that are bound to it: select spec.nodeName=n2"},
		{n1, status, "0 "},
		{n2, status, "3 node n2 may not patch pods/status shop/cart"},
		{n1, Access{Verb: "update", Resource: "services", Namespace: "shop", Name: "cart"}, "3 node n1 may not update services shop/cart"},
	} {
		verdict, why := Decide(test.who, test.access, v)
		if got := fmt.Sprint(int(verdict), " ", why); got != test.want {
			t.Errorf("%v %v: %s, want %s", test.who, test.access, got, test.want)
		}
	}
}
