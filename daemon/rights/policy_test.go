package rights

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"lockstep/internal/golden"
	"lockstep/kinds"
	"lockstep/store/view"
)

// world is a random one: names are few, so that bindings, roles and requests meet.
type world struct {
	*rand.Rand
	roles               []*rbacv1.Role
	clusterRoles        []*rbacv1.ClusterRole
	roleBindings        []*rbacv1.RoleBinding
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

func (w *world) one(of ...string) string { return of[w.IntN(len(of))] }

func (w *world) some(of ...string) (out []string) {
	for range 1 + w.IntN(3) {
		out = append(out, w.one(of...))
	}
	return out
}

func (w *world) namespace() string { return w.one("shop", "bank", "team:a") }
func (w *world) verb() string {
	return w.one("get", "list", "watch", "create", "delete", "update", "patch")
}
func (w *world) group() string {
	return w.one("", "apps", "authorization.k8s.io", "coordination.k8s.io")
}
func (w *world) resource() string {
	return w.one("pods", "secrets", "deployments", "nodes", "subjectaccessreviews", "events", "leases", "serviceaccounts")
}
func (w *world) subresource() string { return w.one("", "", "log", "status") }
func (w *world) path() string        { return w.one("/metrics", "/metrics/slis", "/apis", "/logs/a", "/") }

func (w *world) rules() (out []rbacv1.PolicyRule) {
	for range w.IntN(4) {
		if w.IntN(5) == 0 {
			out = append(out, rbacv1.PolicyRule{Verbs: w.some("get", "post", "*"),
				NonResourceURLs: w.some("*", "/metrics", "/metrics/*", "/logs/*", w.path())})
			continue
		}
		r := rbacv1.PolicyRule{Verbs: w.some(w.verb(), w.verb(), "*"), APIGroups: w.some(w.group(), w.group(), "*"),
			Resources: w.some(w.resource(), w.resource()+"/"+w.one("log", "status", "token"), "*/status", "*/token", "*")}
		if w.IntN(3) == 0 {
			r.ResourceNames = w.some("a", "b")
		}
		out = append(out, r)
	}
	return out
}

func (w *world) subjects() (out []rbacv1.Subject) {
	for range w.IntN(4) {
		switch w.IntN(4) {
		case 0:
			out = append(out, rbacv1.Subject{Kind: rbacv1.UserKind, Name: w.user()})
		case 1:
			out = append(out, rbacv1.Subject{Kind: rbacv1.GroupKind, Name: w.one("dev", "ops", "system:authenticated", ViewerGroup)})
		case 2:
			out = append(out, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: w.one("web", "a:web"),
				Namespace: w.one("", "shop", "team")})
		default:
			out = append(out, rbacv1.Subject{Kind: w.one("Robot", "user"), Name: w.user()})
		}
	}
	return out
}

func (w *world) user() string {
	return w.one("jane", "joe", "system:serviceaccount:shop:web", "system:serviceaccount:team:a:web", "dev")
}

func (w *world) ref() rbacv1.RoleRef {
	return rbacv1.RoleRef{Kind: w.one("Role", "ClusterRole", "ClusterRole", "Rule"),
		Name: w.one("r0", "r1", "r2", "view", "edit", "nowhere")}
}

func makeWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 8))}
	for i := range 3 {
		name := fmt.Sprintf("r%d", i)
		w.roles = append(w.roles, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace(), Name: name}, Rules: w.rules()})
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: w.rules()}
		if w.IntN(3) == 0 {
			role.Labels = map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}
		}
		if w.IntN(4) == 0 { // of the rules that it states, nothing is kept
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{
				"rbac.authorization.k8s.io/aggregate-to-" + w.one("view", "none"): "true"}}}}
		}
		w.clusterRoles = append(w.clusterRoles, role)
	}
	for i := range w.IntN(6) {
		w.roleBindings = append(w.roleBindings, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace(), Name: fmt.Sprintf("b%d", i)}, RoleRef: w.ref(), Subjects: w.subjects()})
	}
	for i := range w.IntN(6) {
		ref := w.ref()
		name := fmt.Sprintf("b%d", i)
		if i == 4 {
			name = "lockstep:view" // in place of the default
		}
		w.clusterRoleBindings = append(w.clusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref, Subjects: w.subjects()})
	}
	return w
}

func (w *world) view() *view.View {
	var all []kinds.Object
	appended(&all, w.roles)
	appended(&all, w.clusterRoles)
	appended(&all, w.roleBindings)
	appended(&all, w.clusterRoleBindings)
	return view.Of(all...)
}

func appended[O kinds.Object](to *[]kinds.Object, of []O) {
	for _, o := range of {
		*to = append(*to, o)
	}
}

// reference is Kubernetes' authorizer over all of it and the defaults, of which no index has left anything out, when the loop
// that aggregates roles has come to rest.
func (w *world) reference() *rbac.RBACAuthorizer {
	clusterRoles, bindings := slices.Clone(w.clusterRoles), slices.Clone(w.clusterRoleBindings)
	for _, o := range Defaults() {
		same := func(other kinds.Object) bool { return other.GetName() == o.GetName() }
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			if !slices.ContainsFunc(clusterRoles, func(r *rbacv1.ClusterRole) bool { return same(r) }) {
				clusterRoles = append(clusterRoles, o)
			}
		case *rbacv1.ClusterRoleBinding:
			if !slices.ContainsFunc(bindings, func(b *rbacv1.ClusterRoleBinding) bool { return same(b) }) {
				bindings = append(bindings, o)
			}
		}
	}
	for i, role := range clusterRoles {
		clusterRoles[i] = role.DeepCopy()
		if role.AggregationRule != nil {
			clusterRoles[i].Rules = nil
		}
	}
	for range clusterRoles {
		for _, role := range clusterRoles {
			if role.AggregationRule == nil {
				continue
			}
			role.Rules = nil
			for _, other := range clusterRoles {
				for _, s := range role.AggregationRule.ClusterRoleSelectors {
					if other != role && labels.SelectorFromSet(s.MatchLabels).Matches(labels.Set(other.Labels)) {
						role.Rules = append(role.Rules, other.Rules...)
					}
				}
			}
			role.Rules, _ = validation.CompactRules(role.Rules)
		}
	}
	slices.SortFunc(bindings, func(a, b *rbacv1.ClusterRoleBinding) int { return strings.Compare(a.Name, b.Name) })
	_, all := validation.NewTestRuleResolver(w.roles, w.roleBindings, clusterRoles, bindings)
	return rbac.New(all, all, all, all)
}

// TestPolicyIsKubernetes judges random requests by random roles and bindings, as Kubernetes' authorizer does that looks at all of
// them.
func TestPolicyIsKubernetes(t *testing.T) {
	allowed := 0
	for seed := range uint64(300) {
		w := makeWorld(seed)
		p, reference := PolicyOf(w.view()), w.reference()
		for range 60 {
			who := person(w.user(), w.some("dev", "ops", ViewerGroup)...)
			a := Access{Verb: w.verb(), Group: w.group(), Resource: w.resource(), Subresource: w.subresource(),
				Namespace: w.one("", w.namespace()), Name: w.one("", "a", "b", "c")}
			if w.IntN(5) == 0 {
				a = Access{Verb: w.one("get", "post"), Path: w.path()}
			}
			decision, reason, _ := reference.Authorize(t.Context(), a.Attributes(&who.User))
			ok, why := p.grants(&who.User, a)
			if want := decision == authorizer.DecisionAllow; ok != want || ok && why != reason || (why == "") != (reason == "") {
				t.Fatalf("seed %d: %v %v: %v, %q; Kubernetes: %v, %q", seed, who.User, a, ok, why, want, reason)
			}
			if ok {
				allowed++
			}
		}
	}
	if allowed < 1000 {
		t.Errorf("only %d requests of 18,000 are allowed: nothing is shown", allowed)
	}
}

// TestVerbsOfKinds holds what each identity is answered to each verb of each kind.
func TestVerbsOfKinds(t *testing.T) {
	bound := func(namespace, user, kind, role string) kinds.Object {
		ref, to := rbacv1.RoleRef{Kind: kind, Name: role}, []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}}
		if namespace == "" {
			return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: ref, Subjects: to}
		}
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: user}, RoleRef: ref, Subjects: to}
	}
	v := view.Of(
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keys"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "delete"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "leads"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "create", "update"}, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}},
			{Verbs: []string{"create", "patch"}, APIGroups: []string{""}, Resources: []string{"events"}}}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "lets-in"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"patch"}, APIGroups: []string{""}, Resources: []string{"pods/status"}}}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "moves"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/eviction"}}}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "tells"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"deployments/status", "services/status"}}}},
		bound("shop", account("gate"), "Role", "lets-in"), bound("shop", account("mover"), "Role", "moves"),
		bound("shop", account("teller"), "Role", "tells"), bound("shop", "mover", "Role", "moves"),
		bound("shop", account("leader"), "Role", "leads"), bound("shop", account("editor"), "ClusterRole", "edit"),
		bound("", account("root"), "ClusterRole", "cluster-admin"), bound("shop", "leader", "Role", "leads"),
		bound("shop", "keeper", "Role", "keys"), bound("shop", "namespaced", "ClusterRole", "view"),
		bound("", "reader", "ClusterRole", "view"), bound("", "root", "ClusterRole", "cluster-admin"),
	)
	p := PolicyOf(v)
	var out strings.Builder
	line := func(what string, answers map[Verdict]string) {
		fmt.Fprintf(&out, "%s:", what)
		for verdict, text := range []string{"yes", "401", "403", "405"} {
			if verbs := answers[Verdict(verdict)]; verbs != "" {
				fmt.Fprintf(&out, " %s:%s;", text, verbs)
			}
		}
		out.WriteString("\n")
	}
	for _, who := range []struct {
		name string
		Subject
	}{
		{"nobody", Subject{}}, {"node n1", Subject{Role: Node, Node: "n1"}}, {"viewer", person("viewer", ViewerGroup)},
		{"person, bound to nothing", person("jane")}, {"person, bound to Role keys in shop", person("keeper")},
		{"person, bound to ClusterRole view in shop", person("namespaced")}, {"person, bound to ClusterRole view", person("reader")},
		{"person, bound to Role leads in shop", person("leader")}, {"person, bound to ClusterRole cluster-admin", person("root")},
		{"account, bound to nothing", program("other")}, {"account, bound to Role leads in shop", program("leader")},
		{"person, bound to Role moves in shop", person("mover")},
		{"account, bound to Role lets-in in shop", program("gate")}, {"account, bound to Role moves in shop", program("mover")},
		{"account, bound to Role tells in shop", program("teller")}, {"account, bound to ClusterRole edit in shop", program("editor")},
		{"account, bound to ClusterRole cluster-admin", program("root")},
	} {
		fmt.Fprintf(&out, "== %s\n", who.name)
		for _, k := range kinds.Served() {
			answers := map[Verdict]string{}
			for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
				a := Access{Verb: verb, Group: k.Group, Resource: k.Resource}
				if k.Namespaced {
					a.Namespace = "shop"
				}
				verdict, _ := Decide(who.Subject, a, v, p)
				answers[verdict] += " " + verb
			}
			line(k.GroupResource().String(), answers)
		}
		for _, k := range kinds.Served() {
			for _, sub := range Subresources() {
				if sub == "" || len(Verbs(k.GroupResource(), sub)) == 0 {
					continue
				}
				answers := map[Verdict]string{}
				for _, verb := range []string{"get", "create", "update", "patch", "delete"} {
					a := Access{Verb: verb, Group: k.Group, Resource: k.Resource, Subresource: sub, Name: "cart"}
					if k.Namespaced {
						a.Namespace = "shop"
					}
					verdict, _ := Decide(who.Subject, a, v, p)
					answers[verdict] += " " + verb
				}
				line(k.GroupResource().String()+"/"+sub, answers)
			}
		}
	}
	golden.File(t, filepath.Join("testdata", "verbs.txt"), out.String())
}

func account(name string) string { return "system:serviceaccount:shop:" + name }

// program is a service account of the namespace shop.
func program(name string) Subject {
	out := person(account(name), "system:serviceaccounts", "system:serviceaccounts:shop")
	out.Role = Account
	return out
}

// TestRules: what is listed is what may be read, asked and, by programs, written.
func TestRules(t *testing.T) {
	for seed := range uint64(100) {
		w := makeWorld(seed)
		p := PolicyOf(w.view())
		for range 20 {
			who, namespace := person(w.user(), w.some("dev", "ops")...), w.namespace()
			if w.IntN(2) == 0 {
				who.Role = Account
			}
			rules := p.Rules(who, namespace)
			a := Access{Verb: w.verb(), Group: w.group(), Resource: w.resource(), Subresource: w.one("", "", "token"),
				Namespace: namespace, Name: w.one("", "a", "c")}
			if a.Verb == "create" && a.Subresource == "" {
				a.Name = ""
			}
			listed := slices.ContainsFunc(rules.ResourceRules, func(r authorizationv1.ResourceRule) bool {
				return rbac.RuleAllows(a.Attributes(&who.User), &rbacv1.PolicyRule{
					Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
			})
			if verdict, _ := Decide(who, a, nil, p); (verdict == Allowed) != listed {
				t.Fatalf("seed %d: %v %v: %v, listed %v: %v", seed, who.User, a, verdict, listed, rules.ResourceRules)
			}
		}
	}
}

// BenchmarkDecide judges a list by a viewer where there are many bindings of others.
func BenchmarkDecide(b *testing.B) {
	var all []kinds.Object
	for i := range 10000 {
		name := fmt.Sprintf("user-%d", i)
		all = append(all, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: name}}})
	}
	v := view.Of(all...)
	p, viewer := PolicyOf(v), person("viewer", ViewerGroup)
	for name, a := range map[string]Access{"pods": {Verb: "list", Resource: "pods"}, "nodes": {Verb: "list", Resource: "nodes"},
		"secrets": {Verb: "list", Resource: "secrets"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Decide(viewer, a, v, p)
			}
		})
	}
	b.Run("policy", func(b *testing.B) {
		for b.Loop() {
			PolicyOf(v)
		}
	})
}

// TestCirclesOfRoles: roles that all take rules from each other have the rules of all, in a time that does not grow with the cube of
// their number: meanwhile nobody is judged.
func TestCirclesOfRoles(t *testing.T) {
	circle := map[string]string{"circle": "yes"}
	p := &Policy{clusterRoles: map[string]*rbacv1.ClusterRole{}}
	for i := range 1000 {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("role-", i), Labels: circle}}
		if i%500 == 7 {
			role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{fmt.Sprint("r", i)}}}
		} else {
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: circle}}}
		}
		p.clusterRoles[role.Name] = role
	}
	began := time.Now()
	p.aggregate()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	for name, role := range p.clusterRoles {
		if role.AggregationRule != nil && len(role.Rules) != 2 {
			t.Fatalf("%s has %d rules", name, len(role.Rules))
		}
	}
}
