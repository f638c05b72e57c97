package rights

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
	"lockstep/store/view"
)

// TestDecide asks for one thing of each kind; what each role may of every resource is a golden file of the API's.
func TestDecide(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.PodSpec{NodeName: "n1",
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}}}
	reads := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reads"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"key"}},
		{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"namespaces", "pods"}},
	}}
	web := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		RoleRef:  rbacv1.RoleRef{Kind: "Role", Name: "reads"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "web"}}}
	lost := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "lost"},
		RoleRef:  rbacv1.RoleRef{Kind: "ClusterRole", Name: "nowhere"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "jane"}}}
	leads := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "leads"},
		RoleRef:  rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "leader"}}}
	v := view.Of(pod, reads, web, lost, leads)
	p := PolicyOf(v)
	nobody, n1, n2 := Subject{}, Subject{Role: Node, Node: "n1"}, Subject{Role: Node, Node: "n2"}
	viewer, jane, account := person("viewer", ViewerGroup), person("jane"), person("system:serviceaccount:shop:web")
	account.Role = Account
	lease := func(verb, namespace, name string) Access {
		return Access{Verb: verb, Group: "coordination.k8s.io", Resource: "leases", Namespace: namespace, Name: name}
	}
	leader := program("leader")
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
		{viewer, Access{Verb: "list", Resource: "pods"},
			`0 RBAC: allowed by ClusterRoleBinding "lockstep:view" of ClusterRole "view" to Group "lockstep:viewers"`},
		{viewer, Access{Verb: "get", Path: "/metrics"},
			`0 RBAC: allowed by ClusterRoleBinding "lockstep:view-cluster" of ClusterRole "lockstep:view-cluster" ` +
				`to Group "lockstep:viewers"`},
		{viewer, key, "2 "},
		{jane, Access{Verb: "list", Resource: "pods"}, `2 RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found`},
		{jane, Access{Verb: "get", Path: "/apis/apps/v1"},
			`0 RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`},
		{jane, Access{Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"},
			`2 RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found`},
		{account, key, `0 RBAC: allowed by RoleBinding "web/shop" of Role "reads" to ServiceAccount "web/shop"`},
		{account, Access{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "other"}, "2 "},
		{account, Access{Verb: "list", Resource: "pods"}, "2 "},
		{account, Access{Verb: "get", Resource: "namespaces", Namespace: "shop", Name: "shop"},
			`0 RBAC: allowed by RoleBinding "web/shop" of Role "reads" to ServiceAccount "web/shop"`},
		{account, Access{Verb: "delete", Resource: "pods", Namespace: "shop", Name: "cart"}, "3 "},
		{viewer, Access{Verb: "delete", Resource: "pods", Namespace: "shop", Name: "cart"}, "3 "},
		{viewer, lease("create", "shop", ""), "3 "},
		{account, lease("create", "shop", ""), "2 "},
		{leader, lease("create", "shop", ""), `0 RBAC: allowed by ClusterRoleBinding "leads" of ClusterRole "cluster-admin" to ` +
			`ServiceAccount "leader/shop"`},
		{leader, lease("deletecollection", "shop", ""), `0 RBAC: allowed by ClusterRoleBinding "leads" of ClusterRole "cluster-admin" ` +
			`to ServiceAccount "leader/shop"`},
		{leader, lease("deletecollection", "", ""), "3 nobody deletes those of all namespaces at once"},
		{leader, lease("deletecollection", "kube-node-lease", ""),
			"3 the leases in kube-node-lease are heartbeats, which nodes alone write"},
		{leader, lease("update", "kube-node-lease", "n1"), "3 the leases in kube-node-lease are heartbeats, which nodes alone write"},
		{leader, lease("delete", "kube-system", "apiserver-x"),
			"3 apiserver-x is a name of leases of API servers, which they alone write"},
		{leader, Access{Verb: "update", Resource: "events", Namespace: "shop", Name: "e"},
			`0 RBAC: allowed by ClusterRoleBinding "leads" of ClusterRole "cluster-admin" to ServiceAccount "leader/shop"`},
		{leader, Access{Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "shop", Name: "cart"},
			`0 RBAC: allowed by ClusterRoleBinding "leads" of ClusterRole "cluster-admin" to ServiceAccount "leader/shop"`},
		{leader, Access{Verb: "patch", Resource: "horizontalpodautoscalers", Group: "autoscaling", Subresource: "status", Name: "n1"},
			"3 "},
		{n1, lease("create", "shop", ""), "3 node n1 may not create leases.coordination.k8s.io shop"},
		{viewer, Access{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
			`0 RBAC: allowed by ClusterRoleBinding "system:basic-user" of ClusterRole "system:basic-user" to Group "system:authenticated"`},
		{viewer, Access{Verb: "get", Path: TunnelPath}, "2 only a node may"},
		{n1, Access{Verb: "get", Path: TunnelPath}, "0 "},
		{n1, key, "0 "},
		{n2, key, "2 no pod that is bound to this node refers to it, nor an Ingress that it serves"},
		{n1, Access{Verb: "watch", Resource: "pods", Fields: own}, "0 "},
		{n2, Access{Verb: "watch", Resource: "pods", Fields: own},
			"2 a node lists only the pods that are bound to it: select spec.nodeName=n2"},
		{n1, status, "0 "},
		{n2, status, "3 node n2 may not patch pods/status shop/cart"},
		{n1, Access{Verb: "update", Resource: "services", Namespace: "shop", Name: "cart"}, "3 node n1 may not update services shop/cart"},
	} {
		verdict, why := Decide(test.who, test.access, v, p)
		if got := fmt.Sprint(int(verdict), " ", why); got != test.want {
			t.Errorf("%v %v: %s, want %s", test.who, test.access, got, test.want)
		}
	}
}

func person(name string, groups ...string) Subject {
	return Subject{Role: Person, User: user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}}
}

// TestNodeReadsCertificates: of Secrets a node that serves ingress reads those that Ingresses of its classes have for TLS, by name.
func TestNodeReadsCertificates(t *testing.T) {
	node := func(name string, labels map[string]string, conditions ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{Conditions: conditions}}
	}
	class := func(name, controller, nodes string) *networkingv1.IngressClass {
		c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		c.Spec.Controller = controller
		if nodes != "" {
			c.Annotations = map[string]string{ingress.Nodes: nodes}
		}
		return c
	}
	i := func(name, class, secret string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: networkingv1.IngressSpec{
			IngressClassName: &class, TLS: []networkingv1.IngressTLS{{SecretName: secret}}}}
	}
	serves := corev1.NodeCondition{Type: kinds.NodeIngress, Status: corev1.ConditionTrue}
	edge := map[string]string{"edge": ""}
	v := view.Of(node("serves", nil, serves), node("edge", edge, serves), node("off", edge),
		class("all", ingress.Controller, ""), class("edge", ingress.Controller, "edge"), class("wrong", ingress.Controller, "a in"),
		class("other", "example.com/other", ""),
		i("all", "all", "of-all"), i("edge", "edge", "of-edge"), i("other", "other", "of-other"), i("none", "none", "of-none"),
		i("wrong", "wrong", "of-wrong"))
	for _, test := range []struct {
		node, namespace, secret string
		allowed                 bool
	}{
		{"serves", "shop", "of-all", true}, {"edge", "shop", "of-all", true}, {"edge", "shop", "of-edge", true},
		{"serves", "shop", "of-edge", false}, {"off", "shop", "of-all", false}, {"off", "shop", "of-edge", false},
		{"gone", "shop", "of-all", false}, {"serves", "shop", "of-other", false}, {"serves", "shop", "of-none", false},
		{"edge", "shop", "of-wrong", false}, {"serves", "other", "of-all", false}, {"serves", "shop", "", false},
		{"serves", "", "of-all", false},
		{"serves", "shop", "another", false},
	} {
		for _, verb := range []string{"get", "list", "watch"} {
			got, why := Decide(Subject{Role: Node, Node: test.node},
				Access{Verb: verb, Resource: "secrets", Namespace: test.namespace, Name: test.secret}, v, nil)
			if (got == Allowed) != test.allowed {
				t.Errorf("%s may %s %s/%s: %v %s", test.node, verb, test.namespace, test.secret, got == Allowed, why)
			}
		}
	}
}

// TestNodeReadsClaims: a node reads the claims of its pods, those of ephemeral volumes too, and the volumes those are bound to.
func TestNodeReadsClaims(t *testing.T) {
	claim := func(namespace, name, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
	}
	v := view.Of(claim("shop", "data", "pv-data"), claim("shop", "cart-scratch", "pv-scratch"), claim("shop", "other", "pv-other"),
		claim("home", "data", "pv-home"), claim("shop", "pending", ""),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.PodSpec{NodeName: "n1",
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "pending", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "pending"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			}}})
	for what, want := range map[Access]Verdict{
		{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "shop", Name: "data"}:           Allowed,
		{Verb: "watch", Resource: "persistentvolumeclaims", Namespace: "shop", Name: "cart-scratch"}: Allowed,
		{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "shop", Name: "other"}:          Forbidden,
		{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "home", Name: "data"}:           Forbidden,
		{Verb: "list", Resource: "persistentvolumeclaims", Namespace: "shop"}:                        Forbidden,
		{Verb: "get", Resource: "persistentvolumes", Name: "pv-data"}:                                Allowed,
		{Verb: "get", Resource: "persistentvolumes", Name: "pv-scratch"}:                             Allowed,
		{Verb: "get", Resource: "persistentvolumes", Name: "pv-other"}:                               Forbidden,
		{Verb: "get", Resource: "persistentvolumes", Name: "pv-home"}:                                Forbidden,
		{Verb: "list", Resource: "persistentvolumes"}:                                                Forbidden,
		{Verb: "watch", Resource: "persistentvolumes", Name: "pv-data"}:                              Forbidden,
	} {
		if got, why := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != want {
			t.Errorf("n1: %s: %v %s, want %v", what, got, why, want)
		}
		if got, _ := Decide(Subject{Role: Node, Node: "n2"}, what, v, nil); got != Forbidden {
			t.Errorf("n2: %s: %v", what, got)
		}
	}
}

// TestNodeTellsOfGrowth: a node says that a volume has grown that was to grow there, and nothing else of a claim.
func TestNodeTellsOfGrowth(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound,
			Capacity:           corev1.ResourceList{"storage": resource.MustParse("1Gi")},
			AllocatedResources: corev1.ResourceList{"storage": resource.MustParse("2Gi")},
			AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{
				"storage": corev1.PersistentVolumeClaimNodeResizePending},
			Conditions: []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending}}}}
	grown := kinds.Grown(claim)
	if got := grown.Status.Capacity["storage"]; got.String() != "2Gi" || len(grown.Status.Conditions) > 0 || kinds.GrowsOnNode(grown) {
		t.Errorf("grown: %+v", grown.Status)
	}
	more := grown.DeepCopy()
	more.Status.Capacity["storage"] = resource.MustParse("3Gi")
	lost := grown.DeepCopy()
	lost.Status.Phase = corev1.ClaimLost
	for what, test := range map[string]struct {
		old, new *corev1.PersistentVolumeClaim
		ok       bool
	}{
		"as it was to": {claim, grown, true}, "further": {claim, more, false}, "and is lost": {claim, lost, false},
		"again": {grown, grown, false},
	} {
		if err := CheckClaimStatus("n1", nil, test.new.DeepCopy(), test.old); (err == nil) != test.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	v := view.Of(claim, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.PodSpec{NodeName: "n1",
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}})
	for what, want := range map[Access]Verdict{
		{Verb: "update", Subresource: "status", Name: "data"}:  Allowed,
		{Verb: "update", Subresource: "status", Name: "other"}: NotThisWay,
		{Verb: "update", Name: "data"}:                         NotThisWay,
	} {
		what.Resource, what.Namespace = "persistentvolumeclaims", "shop"
		if got, why := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != want {
			t.Errorf("n1: %s: %v %s, want %v", what, got, why, want)
		}
		if got, _ := Decide(Subject{Role: Node, Node: "n2"}, what, v, nil); got != NotThisWay {
			t.Errorf("n2: %s: %v", what, got)
		}
	}
}

// TestNodeReadsSecretsOfVolumes: a node reads the secrets that its drivers need for the volumes of its pods, and none for what a claim
// only says that it is bound to.
func TestNodeReadsSecretsOfVolumes(t *testing.T) {
	volume := func(name, claim string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: claim, UID: types.UID("uid-" + claim)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef:         &corev1.SecretReference{Namespace: "store", Name: name + "-stage"},
				NodePublishSecretRef:       &corev1.SecretReference{Namespace: "store", Name: name + "-publish"},
				ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "store", Name: name + "-controller"}}}}}
	}
	claim := func(name, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
	}
	mount := func(claim string) corev1.Volume {
		return corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}
	}
	v := view.Of(volume("one", "data"), volume("two", "other"), claim("data", "one"), claim("thief", "two"),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.PodSpec{NodeName: "n1",
			Volumes: []corev1.Volume{mount("data"), mount("thief")}}})
	for name, want := range map[string]Verdict{"one-stage": Allowed, "one-publish": Allowed, "one-controller": Forbidden,
		"two-stage": Forbidden, "": Forbidden} {
		what := Access{Verb: "get", Resource: "secrets", Namespace: "store", Name: name}
		if got, why := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != want {
			t.Errorf("n1: %s: %v %s, want %v", name, got, why, want)
		}
		what.Verb = "watch"
		if got, _ := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != Forbidden {
			t.Errorf("n1 watches %s: %v", name, got)
		}
	}
}

// TestNodeKeepsVolumes: a node reads, lets go and tells of the volumes that are its directories, and no others; nor can it say that
// one is its own.
func TestNodeKeepsVolumes(t *testing.T) {
	going := metav1.Now()
	volume := func(name, node string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{kinds.LocalPathNode: node},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath},
			Finalizers:  []string{kinds.VolumeProtection, kinds.LocalPath}, DeletionTimestamp: &going},
			Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data-" + name}}}
		change(pv)
		return pv
	}
	as := func(*corev1.PersistentVolume) {}
	mine, theirs := volume("mine", "n1", as), volume("theirs", "n2", as)
	disk := volume("disk", "n1", func(pv *corev1.PersistentVolume) { pv.Annotations = nil })
	used := volume("used", "n1", func(pv *corev1.PersistentVolume) { pv.DeletionTimestamp = nil })
	v := view.Of(mine, theirs, disk, used)
	n1 := Subject{Role: Node, Node: "n1"}
	selects := func(text string) labels.Selector {
		s, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, test := range []struct {
		verb, name, labels string
		want               Verdict
	}{
		{"get", "mine", "", Allowed}, {"get", "theirs", "", Forbidden}, {"get", "disk", "", Forbidden},
		{"list", "", "lockstep.dev/node=n1", Allowed}, {"watch", "", "lockstep.dev/node=n1,a=b", Allowed},
		{"list", "", "", Forbidden}, {"list", "", "lockstep.dev/node=n2", Forbidden}, {"list", "", "lockstep.dev/node", Forbidden},
		{"list", "", "lockstep.dev/node in (n1,n2)", Forbidden}, {"watch", "", "lockstep.dev/node!=n2", Forbidden},
		{"update", "mine", "", Allowed}, {"patch", "used", "", Allowed}, {"update", "theirs", "", NotThisWay},
		{"update", "disk", "", NotThisWay}, {"update", "absent", "", Allowed}, {"delete", "mine", "", NotThisWay},
		{"create", "", "", NotThisWay}, {"create", "mine", "", NotThisWay},
	} {
		a := Access{Verb: test.verb, Resource: "persistentvolumes", Name: test.name}
		if test.labels != "" {
			a.Labels = selects(test.labels)
		}
		if got, why := Decide(n1, a, v, nil); got != test.want {
			t.Errorf("%v %s: %v %s, want %v", a, test.labels, got, why, test.want)
		}
	}
	mark := func(pv *corev1.PersistentVolume) { pv.Annotations[kinds.LocalPathMade] = "true" }
	let := func(pv *corev1.PersistentVolume) { pv.Finalizers = []string{kinds.VolumeProtection} }
	for what, test := range map[string]struct {
		of     *corev1.PersistentVolume
		change func(*corev1.PersistentVolume)
		ok     bool
	}{
		"its own":         {mine, let, true},
		"another's":       {theirs, let, false},
		"one in use":      {used, let, false},
		"a made one":      {used, mark, true},
		"another's made":  {theirs, mark, false},
		"one that goes":   {mine, mark, false},
		"made, and more":  {used, func(pv *corev1.PersistentVolume) { mark(pv); pv.Spec.ClaimRef = nil }, false},
		"made, or not":    {used, func(pv *corev1.PersistentVolume) { pv.Annotations[kinds.LocalPathMade] = "no" }, false},
		"all finalizers":  {mine, func(pv *corev1.PersistentVolume) { pv.Finalizers = nil }, false},
		"the other":       {mine, func(pv *corev1.PersistentVolume) { pv.Finalizers = []string{kinds.LocalPath} }, false},
		"nothing":         {mine, as, false},
		"and another one": {mine, func(pv *corev1.PersistentVolume) { let(pv); pv.Finalizers = append(pv.Finalizers, "a/b") }, false},
		"its claim":       {mine, func(pv *corev1.PersistentVolume) { let(pv); pv.Spec.ClaimRef = nil }, false},
		"its node":        {mine, func(pv *corev1.PersistentVolume) { let(pv); pv.Labels = theirs.Labels }, false},
		"its phase":       {mine, func(pv *corev1.PersistentVolume) { let(pv); pv.Status.Phase = corev1.VolumeBound }, false},
	} {
		changed := test.of.DeepCopy()
		test.change(changed)
		if err := CheckVolume("n1", v, changed, test.of); (err == nil) != test.ok {
			t.Errorf("n1 lets go of %s: %v", what, err)
		}
	}
}

// TestNodeTellsOfVolumes: of those that it keeps, and of the claims that have them.
func TestNodeTellsOfVolumes(t *testing.T) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{kinds.LocalPathNode: "n1"},
		Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}},
		Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data"}}}
	claim := func(name, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
	}
	v := view.Of(pv, claim("data", "mine"), claim("thief", "mine"), claim("waits", ""), claim("other", "absent"))
	for about, want := range map[corev1.ObjectReference][2]bool{
		{Kind: "PersistentVolume", Name: "mine"}:                              {true, false},
		{Kind: "PersistentVolume", Name: "absent"}:                            {false, false},
		{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data"}:      {true, false},
		{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "thief"}:     {false, false},
		{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "waits"}:     {false, false},
		{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "other"}:     {false, false},
		{Kind: "PersistentVolumeClaim", Namespace: "elsewhere", Name: "data"}: {false, false},
	} {
		for i, node := range []string{"n1", "n2"} {
			if err := CheckEvent(node, v, &corev1.Event{InvolvedObject: about}, nil); (err == nil) != want[i] {
				t.Errorf("%s of %s %s: %v", node, about.Kind, about.Name, err)
			}
		}
	}
}

// TestNodeAttaches: a node reads the attachments to it, asks for those that are not there yet, and writes none.
func TestNodeAttaches(t *testing.T) {
	attachment := func(name, node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node}}
	}
	v := view.Of(attachment("csi-1", "n1"), attachment("csi-2", "n2"))
	for what, want := range map[Access]Verdict{
		{Verb: "get", Name: "csi-1"}:                          Allowed,
		{Verb: "watch", Name: "csi-1"}:                        Allowed,
		{Verb: "get", Name: "csi-2"}:                          Forbidden,
		{Verb: "get", Name: "csi-3"}:                          Allowed,
		{Verb: "watch", Name: "csi-3"}:                        Forbidden,
		{Verb: "list"}:                                        Forbidden,
		{Verb: "create"}:                                      NotThisWay,
		{Verb: "patch", Name: "csi-1"}:                        NotThisWay,
		{Verb: "patch", Name: "csi-1", Subresource: "status"}: NotThisWay,
		{Verb: "delete", Name: "csi-1"}:                       NotThisWay,
	} {
		what.Group, what.Resource = "storage.k8s.io", "volumeattachments"
		if got, why := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != want {
			t.Errorf("%s: %v %s, want %v", what, got, why, want)
		}
	}
}

// TestNodeTellsOfDrivers: a node writes its own CSINode, which ends with it.
func TestNodeTellsOfDrivers(t *testing.T) {
	v := view.Of(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "7"}})
	of := func(name string, owners ...metav1.OwnerReference) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
	}
	n1 := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "7"}
	before, pod, kept := n1, n1, of("n1", n1)
	before.UID, pod.Kind, kept.Finalizers = "6", "Pod", []string{"example.com/kept"}
	for what, test := range map[string]struct {
		node string
		new  *storagev1.CSINode
		ok   bool
	}{
		"its own":               {"n1", of("n1", n1), true},
		"another's":             {"n1", of("n2", n1), false},
		"one of nobody":         {"n1", of("n1"), false},
		"one of a former node":  {"n1", of("n1", before), false},
		"one of something else": {"n1", of("n1", pod), false},
		"one of two":            {"n1", of("n1", n1, pod), false},
		"one that is kept":      {"n1", kept, false},
		"without a node":        {"n2", of("n2", n1), false},
	} {
		if err := CheckCSINode(test.node, v, test.new, nil); (err == nil) != test.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, want := range map[Access]Verdict{
		{Verb: "get", Name: "n1"}:                          Allowed,
		{Verb: "get", Name: "n2"}:                          Forbidden,
		{Verb: "list"}:                                     Forbidden,
		{Verb: "create"}:                                   Allowed,
		{Verb: "patch", Name: "n1"}:                        Allowed,
		{Verb: "patch", Name: "n2"}:                        NotThisWay,
		{Verb: "patch", Name: "n1", Subresource: "status"}: NotThisWay,
		{Verb: "delete", Name: "n1"}:                       NotThisWay,
	} {
		what.Group, what.Resource = "storage.k8s.io", "csinodes"
		if got, why := Decide(Subject{Role: Node, Node: "n1"}, what, v, nil); got != want {
			t.Errorf("%s: %v %s, want %v", what, got, why, want)
		}
	}
}
