package rights

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"lockstep/kinds"
	"lockstep/kinds/roles"
	"lockstep/store/view"
)

// Policy is what the roles and bindings of one view grant, and those of Defaults that are not there. It is not changed; nil
// grants nothing.
type Policy struct {
	clusterRoles map[string]*rbacv1.ClusterRole // with the rules that they aggregate
	roles        map[place]*rbacv1.Role
	everywhere   map[subject][]*rbacv1.ClusterRoleBinding
	within       map[string]map[subject][]*rbacv1.RoleBinding // by namespace
}

type place struct{ namespace, name string }

// subject is a user or a group that bindings name. A service account is the user that it is.
type subject struct{ kind, name string }

// Edition stands for the roles and bindings of a view: they are the same in two views whose editions are.
type Edition [4]any

// EditionOf returns that of a view.
func EditionOf(v *view.View) Edition {
	return Edition{
		v.Edition(kinds.For[*rbacv1.ClusterRole]()), v.Edition(kinds.For[*rbacv1.ClusterRoleBinding]()),
		v.Edition(kinds.For[*rbacv1.Role]()), v.Edition(kinds.For[*rbacv1.RoleBinding]()),
	}
}

// PolicyOf reads a view's roles and bindings. It takes time that grows with their number, for an Edition once.
func PolicyOf(v *view.View) *Policy {
	p := &Policy{
		clusterRoles: map[string]*rbacv1.ClusterRole{}, roles: map[place]*rbacv1.Role{},
		everywhere: map[subject][]*rbacv1.ClusterRoleBinding{}, within: map[string]map[subject][]*rbacv1.RoleBinding{},
	}
	bindings := map[string]*rbacv1.ClusterRoleBinding{}
	for _, o := range Defaults() {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			p.clusterRoles[o.Name] = o
		case *rbacv1.ClusterRoleBinding:
			bindings[o.Name] = o
		}
	}
	for role := range view.List[*rbacv1.ClusterRole](v, "") {
		p.clusterRoles[role.Name] = role
	}
	for binding := range view.List[*rbacv1.ClusterRoleBinding](v, "") {
		bindings[binding.Name] = binding
	}
	p.aggregate()
	for role := range view.List[*rbacv1.Role](v, "") {
		p.roles[place{role.Namespace, role.Name}] = role
	}
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		add(p.everywhere, bindings[name], bindings[name].Subjects, "")
	}
	for binding := range view.List[*rbacv1.RoleBinding](v, "") {
		if p.within[binding.Namespace] == nil {
			p.within[binding.Namespace] = map[subject][]*rbacv1.RoleBinding{}
		}
		add(p.within[binding.Namespace], binding, binding.Subjects, binding.Namespace)
	}
	return p
}

// add notes a binding under whom it names.
func add[B any](to map[subject][]B, binding B, subjects []rbacv1.Subject, namespace string) {
	seen := map[subject]bool{}
	for _, s := range subjects {
		on := subject{s.Kind, s.Name}
		if s.Kind == rbacv1.ServiceAccountKind {
			on = subject{rbacv1.UserKind, serviceaccount.MakeUsername(cmp.Or(s.Namespace, namespace), s.Name)}
		}
		if !seen[on] {
			to[on] = append(to[on], binding)
		}
		seen[on] = true
	}
}

// aggregate gives the roles that aggregate others the rules of these, as the cluster's own loop will write them: who has
// such a role is not without it until then.
func (p *Policy) aggregate() {
	var all []*rbacv1.ClusterRole
	for _, name := range slices.Sorted(maps.Keys(p.clusterRoles)) {
		all = append(all, p.clusterRoles[name])
	}
	taken := make([][]int, len(all))
	for i, role := range all {
		taken[i] = roles.Collected(role, all)
	}
	for i, from := range gathered(taken) {
		if all[i].AggregationRule == nil {
			continue
		}
		role := all[i].DeepCopy()
		role.Rules = nil
		for _, other := range from {
			if all[other].AggregationRule == nil {
				role.Rules = append(role.Rules, all[other].Rules...)
			}
		}
		p.clusterRoles[role.Name] = role
	}
}

// gathered are for each role, by its place, those from which it takes rules, also by others that take theirs, itself among them, in
// order; taken are those of each from which it takes them itself. Roles may take from each other in circles: what one before reaches
// is not looked for again.
func gathered(taken [][]int) [][]int {
	out := make([][]int, len(taken))
	for role := range taken {
		known := make([]bool, len(taken))
		known[role] = true
		for todo := []int{role}; len(todo) > 0; todo = todo[1:] {
			for _, other := range taken[todo[0]] {
				if known[other] {
					continue
				}
				if out[other] == nil {
					known[other], todo = true, append(todo, other)
				}
				for _, further := range out[other] {
					known[further] = true
				}
			}
		}
		for other, is := range known {
			if is {
				out[role] = append(out[role], other)
			}
		}
	}
	return out
}

// grants says whether a binding grants an access, and in Kubernetes' words by which; or which roles, that bindings name, are not
// there.
func (p *Policy) grants(who *user.DefaultInfo, a Access) (bool, string) {
	if p == nil {
		return false, ""
	}
	b := bound{p, who}
	decision, why, _ := rbac.New(b, b, b, b).Authorize(context.Background(), a.Attributes(who))
	return decision == authorizer.DecisionAllow, why
}

// bound shows Kubernetes' evaluator a policy, of bindings those alone that name somebody, in order of their names.
type bound struct {
	*Policy
	who *user.DefaultInfo
}

// GetRole implements validation.RoleGetter.
func (b bound) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	if role := b.roles[place{namespace, name}]; role != nil {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("role"), name)
}

// GetClusterRole implements validation.ClusterRoleGetter.
func (b bound) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	if role := b.clusterRoles[name]; role != nil {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrole"), name)
}

// ListClusterRoleBindings implements validation.ClusterRoleBindingLister.
func (b bound) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return naming(b.everywhere, b.who), nil
}

// ListRoleBindings implements validation.RoleBindingLister.
func (b bound) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return naming(b.within[namespace], b.who), nil
}

func naming[B interface {
	comparable
	GetName() string
}](by map[subject][]B, who *user.DefaultInfo) []B {
	out := slices.Clone(by[subject{rbacv1.UserKind, who.Name}])
	for _, group := range who.Groups {
		out = append(out, by[subject{rbacv1.GroupKind, group}]...)
	}
	slices.SortFunc(out, func(a, b B) int { return strings.Compare(a.GetName(), b.GetName()) })
	return slices.Compact(out)
}
