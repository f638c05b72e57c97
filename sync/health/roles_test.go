package health

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestBindings: a binding fails while there is no such role, of its own namespace where it is not of the cluster.
func TestBindings(t *testing.T) {
	meta := func(namespace string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: "cart"} }
	cluster := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view"}}
	here := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "read"}}
	elsewhere := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "till", Name: "read"}}
	toView, toRead := rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}, rbacv1.RoleRef{Kind: "Role", Name: "read"}
	all := &rbacv1.ClusterRoleBinding{ObjectMeta: meta(""), RoleRef: toView}
	one := &rbacv1.RoleBinding{ObjectMeta: meta("shop"), RoleRef: toRead}
	both := &rbacv1.RoleBinding{ObjectMeta: meta("shop"), RoleRef: toView}
	for _, c := range []struct {
		binding kinds.Object
		role    kinds.Object
		want    string
	}{
		{all, cluster, ""},
		{all, here, "ClusterRole view not found"},
		{one, here, ""},
		{one, elsewhere, "Role shop/read not found"},
		{both, cluster, ""},
		{both, here, "ClusterRole view not found"},
	} {
		v := view.Of(c.binding, c.role)
		h := At(seen(v, kinds.KeyOf(c.binding)), now).Of(kinds.KeyOf(c.binding))
		if h.Cause != c.want || (h.State == kinds.Failed) != (c.want != "") {
			t.Errorf("%v beside %v: %+v, want %q", kinds.KeyOf(c.binding), kinds.KeyOf(c.role), h, c.want)
		}
	}
	reads, changed := AllReads(), here.DeepCopy()
	if !reads.Concern(kinds.Of(here), nil, here) || reads.Concern(kinds.Of(here), here, changed) {
		t.Error("bindings are judged anew where a role comes or goes, and not where it changes")
	}
}
