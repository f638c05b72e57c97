package kinds

import rbacv1 "k8s.io/api/rbac/v1"

// roleReads is what judging bindings looks at: whether a role is there, and not what it says.
func roleReads() []Read {
	comesOrGoes := func(old, new Object) bool { return old == nil || new == nil }
	return []Read{{rbac().WithKind("ClusterRole"), comesOrGoes}, {rbac().WithKind("Role"), comesOrGoes}}
}

func clusterRoleBindingHealth(b *rbacv1.ClusterRoleBinding, see Sight) Health {
	return grants("", b.RoleRef, see)
}

func roleBindingHealth(b *rbacv1.RoleBinding, see Sight) Health {
	return grants(b.Namespace, b.RoleRef, see)
}

// grants: the role that a binding in the namespace refers to is there. Kubernetes takes a binding of any name, and grants nothing
// by it until there is such a role.
func grants(namespace string, ref rbacv1.RoleRef, see Sight) Health {
	if k := RoleOf(namespace, ref); see.Get(k) == nil {
		return Health{State: Failed, Cause: k.String() + " not found"}
	}
	return Health{State: Healthy}
}

// RoleOf is the key of the role that a binding in the namespace refers to; empty: a ClusterRoleBinding.
func RoleOf(namespace string, ref rbacv1.RoleRef) Key {
	if ref.Kind == "Role" {
		return For[*rbacv1.Role]().Key(namespace, ref.Name)
	}
	return For[*rbacv1.ClusterRole]().Key("", ref.Name)
}
