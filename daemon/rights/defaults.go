package rights

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"lockstep/kinds"
)

// ViewerGroup is that of viewers.
const ViewerGroup = "lockstep:viewers"

// Defaults are the cluster roles and bindings that hold in every cluster, unless it has others of their names: Kubernetes' own,
// without those of its controllers, and those of viewers.
func Defaults() []kinds.Object {
	var out []kinds.Object
	for _, role := range bootstrappolicy.ClusterRoles() {
		out = append(out, &role)
	}
	for _, binding := range bootstrappolicy.ClusterRoleBindings() {
		out = append(out, &binding)
	}
	// Named and aggregated as metrics-server's own role is.
	out = append(out, clusterRole("system:aggregated-metrics-reader", map[string]string{
		"rbac.authorization.k8s.io/aggregate-to-admin": "true",
		"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
		"rbac.authorization.k8s.io/aggregate-to-view":  "true",
	}, usageRule()))
	return append(out, clusterRole(viewCluster, nil, viewerRules()...), viewers("lockstep:view", "view"), viewers(viewCluster, viewCluster))
}

// viewers binds them to a cluster role.
func viewers(name, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: bootstrapping(name, nil),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: ViewerGroup}},
	}
}

// viewCluster is the role of viewers for what view does not grant, since it is made for namespaces.
const viewCluster = "lockstep:view-cluster"

func reading() []string { return []string{"get", "list", "watch"} }

func usageRule() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: reading(), APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"nodes", "pods"}}
}

// viewerRules grant all that is no Secret, whatever a cluster's own role view grants.
func viewerRules() []rbacv1.PolicyRule {
	groups := map[string][]string{}
	for _, k := range kinds.Served() {
		if k.Confidential != kinds.Yes {
			groups[k.Group] = append(groups[k.Group], k.Resource)
		}
	}
	groups[""] = append(groups[""], "pods/log", "nodes/proxy")
	var out []rbacv1.PolicyRule
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		resources := append(groups[group], "*/scale", "*/status")
		slices.Sort(resources)
		out = append(out, rbacv1.PolicyRule{Verbs: reading(), APIGroups: []string{group}, Resources: resources})
	}
	return append(out, usageRule(),
		rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"},
			Resources: []string{"localsubjectaccessreviews", "subjectaccessreviews"}},
		rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}},
		rbacv1.PolicyRule{Verbs: []string{"get", "head"}, NonResourceURLs: []string{"*"}})
}

func clusterRole(name string, labels map[string]string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: bootstrapping(name, labels), Rules: rules}
}

// bootstrapping marks an object as Kubernetes marks its own defaults.
func bootstrapping(name string, labels map[string]string) metav1.ObjectMeta {
	out := metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	maps.Copy(out.Labels, labels)
	return out
}
