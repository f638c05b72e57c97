package view

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
)

func pod(namespace, name, node, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.NodeName = node
	if owner != "" {
		controller := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: "u-x", Controller: &controller}}
	}
	return p
}

func names(seq func(func(*corev1.Pod) bool)) []string {
	var out []string
	for p := range seq {
		out = append(out, p.Namespace+"/"+p.Name)
	}
	return out
}

func TestIndexes(t *testing.T) {
	db := NewDB()
	change := func(p *corev1.Pod) Change { return Change{Key: kinds.KeyOf(p), New: p} }
	db.Apply(5, []Change{
		change(pod("b", "one", "n1", "x")), change(pod("a", "two", "n1", "")), change(pod("a", "three", "", "x")),
		change(pod("a", "four", "n10", "")),
	})
	old := db.View()
	if got, want := names(old.PodsOnNode("n1")), []string{"a/two", "b/one"}; !slices.Equal(got, want) {
		t.Errorf("PodsOnNode(n1) = %v, want %v", got, want)
	}
	if got, want := names(old.PodsOnNode("")), []string{"a/three"}; !slices.Equal(got, want) {
		t.Errorf("unbound pods = %v, want %v", got, want)
	}
	if got, want := names(List[*corev1.Pod](old, "a")), []string{"a/four", "a/three", "a/two"}; !slices.Equal(got, want) {
		t.Errorf("List(a) = %v, want %v", got, want)
	}
	n := 0
	for range old.Controlled("u-x") {
		n++
	}
	if n != 2 {
		t.Errorf("Controlled yields %d objects, want 2", n)
	}

	gone := pod("b", "one", "n1", "x")
	db.Apply(6, []Change{{Key: kinds.KeyOf(gone), Old: gone}})
	if _, ok := Get[*corev1.Pod](db.View(), "b", "one"); ok {
		t.Error("a deleted pod is still in the view")
	}
	if _, ok := Get[*corev1.Pod](old, "b", "one"); !ok {
		t.Error("an older view changed")
	}
}

func TestWait(t *testing.T) {
	db := NewDB()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := db.Wait(ctx, 3); err == nil {
		t.Fatal("Wait returned before its revision was applied")
	}
	go db.Apply(3, nil)
	if v, err := db.Wait(t.Context(), 3); err != nil || v.Revision() != 3 {
		t.Fatalf("Wait = %v, %v", v, err)
	}
}

func TestOrphans(t *testing.T) {
	v := Of(pod("a", "owned", "", "x"), pod("a", "alone", "", ""), pod("b", "elsewhere", "", ""))
	if got, want := names(Orphans[*corev1.Pod](v, "a")), []string{"a/alone"}; !slices.Equal(got, want) {
		t.Errorf("Orphans(a) = %v, want %v", got, want)
	}
}

// TestMoves changes index values, with and without telling what was there before.
func TestMoves(t *testing.T) {
	for _, told := range []bool{true, false} {
		db := NewDB()
		before, after := pod("a", "one", "", "x"), pod("a", "one", "n1", "")
		key := kinds.KeyOf(before)
		db.Apply(1, []Change{{Key: key, New: before}})
		change := Change{Key: key, New: after}
		if told {
			change.Old = before
		}
		db.Apply(2, []Change{change})
		v := db.View()
		if got := names(v.PodsOnNode("")); got != nil {
			t.Errorf("told %v: unbound pods = %v", told, got)
		}
		if got, want := names(v.PodsOnNode("n1")), []string{"a/one"}; !slices.Equal(got, want) {
			t.Errorf("told %v: PodsOnNode(n1) = %v, want %v", told, got, want)
		}
		if got, want := names(Orphans[*corev1.Pod](v, "a")), []string{"a/one"}; !slices.Equal(got, want) {
			t.Errorf("told %v: Orphans = %v, want %v", told, got, want)
		}
		for o := range v.Dependents("u-x") {
			t.Errorf("told %v: %s is still a dependent", told, o.GetName())
		}
		db.Apply(3, []Change{{Key: key}})
		if got := names(db.View().PodsOnNode("n1")); got != nil {
			t.Errorf("told %v: deleted and still on its node: %v", told, got)
		}
	}
}

// TestRandomChanges applies random changes in batches: each view is what a database built from its objects alone would
// show, and stays so while later ones are made.
func TestRandomChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	db := NewDB()
	model := map[kinds.Key]kinds.Object{}
	type taken struct {
		view *View
		want string
	}
	var views []taken
	for rev := int64(1); rev <= 60; rev++ {
		var changes []Change
		for range 1 + rng.IntN(80) {
			p := pod(fmt.Sprintf("ns%d", rng.IntN(3)), fmt.Sprintf("p%d", rng.IntN(400)), fmt.Sprintf("n%d", rng.IntN(5)), "")
			p.UID = types.UID(fmt.Sprintf("uid-%s-%d", p.Name, rng.IntN(3)))
			for range rng.IntN(3) {
				p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{UID: types.UID(fmt.Sprintf("o%d", rng.IntN(4)))})
			}
			key := kinds.KeyOf(p)
			if rng.IntN(3) == 0 {
				changes = append(changes, Change{Key: key, Old: model[key]})
				delete(model, key)
			} else {
				changes = append(changes, Change{Key: key, Old: model[key], New: p})
				model[key] = p
			}
		}
		db.Apply(rev, changes)
		views = append(views, taken{db.View(), describe(Of(slices.Collect(maps.Values(model))...))})
	}
	for _, v := range views {
		if got := describe(v.view); got != v.want {
			t.Fatalf("the view at revision %d shows\n%s\nwant\n%s", v.view.Revision(), got, v.want)
		}
	}
}

// describe writes all that a view of pods can be asked.
func describe(v *View) string {
	var b strings.Builder
	line := func(what string, seq iter.Seq[kinds.Object]) {
		fmt.Fprintf(&b, "%s:", what)
		for o := range seq {
			fmt.Fprintf(&b, " %s/%s/%s", o.GetNamespace(), o.GetName(), o.GetUID())
		}
		b.WriteString("\n")
	}
	kind := kinds.For[*corev1.Pod]()
	pods := kind.GroupResource()
	fmt.Fprintf(&b, "%d pods\n", v.Len(pods))
	line("all", v.List(pods, ""))
	line("ns1", v.List(pods, "ns1"))
	for i := range 5 {
		line("node", v.having(byRow+index(kinds.ByNode), fmt.Sprintf("n%d", i)))
		line("dependents", v.Dependents(types.UID(fmt.Sprintf("o%d", i))))
		line("orphans", v.having(byOrphanage, orphanage(kind, fmt.Sprintf("ns%d", i))))
	}
	for o := range v.List(pods, "") {
		if v.ByUID(o.GetUID()) == nil || v.Get(kinds.KeyOf(o)) != o {
			fmt.Fprintf(&b, "%s is not found by uid and key\n", o.GetName())
		}
	}
	return b.String()
}

// TestScope: what is not in scope is not seen, and cannot be asked for.
func TestScope(t *testing.T) {
	owner := types.UID("rs")
	controller := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "p", UID: "p", OwnerReferences: []metav1.OwnerReference{{UID: owner, Controller: &controller}},
	}}
	secret := &corev1.Secret{ObjectMeta: pod.ObjectMeta}
	secret.UID = "s"
	v := Of(pod, secret).Only(Scope{kinds.For[*corev1.Pod](): true})
	got := slices.Collect(v.Controlled(owner))
	if len(got) != 1 || got[0] != kinds.Object(pod) || v.ByUID("s") != nil || v.Get(kinds.KeyOf(pod)) == nil {
		t.Errorf("of the owner's objects it sees %v", got)
	}
	for what, look := range map[string]func(){
		"a secret":  func() { Get[*corev1.Secret](v, "shop", "p") },
		"its key":   func() { v.Get(kinds.KeyOf(secret)) },
		"a list":    func() { List[*corev1.Secret](v, "") },
		"a count":   func() { v.Len(kinds.For[*corev1.Secret]().GroupResource()) },
		"orphans":   func() { Orphans[*appsv1.ReplicaSet](v, "shop") },
		"slices":    func() { v.SlicesOfService("shop", "web") },
		"a record":  func() { v.Record("desired", "a") },
		"records":   func() { v.Records("desired", "") },
		"all of it": func() { v.AllRecords() },
	} {
		if !panics(look) {
			t.Errorf("%s can be asked for", what)
		}
	}
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestEdition: a kind's changes when its objects do, and with nothing else.
func TestEdition(t *testing.T) {
	pods, services := kinds.For[*corev1.Pod](), kinds.For[*corev1.Service]()
	db := NewDB()
	empty := db.View()
	one := pod("a", "one", "n1", "")
	db.Apply(1, []Change{{Key: kinds.KeyOf(one), New: one}})
	first := db.View()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}}
	db.Apply(2, []Change{{Key: kinds.KeyOf(service), New: service}, {NewRecord: &Record{Table: "x", Name: "y"}}})
	second := db.View()
	db.Apply(3, []Change{{Key: kinds.KeyOf(one)}})
	third := db.View()
	if empty.Edition(pods) == first.Edition(pods) || first.Edition(pods) != second.Edition(pods) ||
		second.Edition(pods) == third.Edition(pods) || second.Edition(services) != third.Edition(services) {
		t.Error("the editions do not follow the objects")
	}
}

// TestUnreadable has what cannot be read be there: what was known of it stays, nobody is told of a change, and it ends with the next
// state that can be read, or with its removal.
func TestUnreadable(t *testing.T) {
	secret := func(rv string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", ResourceVersion: rv}}
	}
	key := kinds.KeyOf(secret(""))
	damaged := Change{Key: key, Unreadable: "damaged"}
	db := NewDB()
	db.Apply(1, []Change{{Key: key, New: secret("1")}})
	first := db.View()
	for i, step := range []struct {
		change  Change
		known   string
		why     string
		changes int
	}{
		{damaged, "1", "damaged", 0},
		{damaged, "1", "damaged", 0},
		{Change{Key: key, New: secret("4")}, "4", "", 1},
		{damaged, "4", "damaged", 0},
		{Change{Key: key}, "", "", 1},
		{damaged, "", "damaged", 0},
		{Change{Key: key}, "", "", 0},
	} {
		changes := db.Apply(int64(i+2), []Change{step.change})
		v := db.View()
		o, known := Get[*corev1.Secret](v, "shop", "a")
		if known != (step.known != "") || known && o.ResourceVersion != step.known || v.Unreadable(key) != step.why ||
			len(changes) != step.changes {
			t.Errorf("step %d: %v, %q, %d changes", i, o, v.Unreadable(key), len(changes))
		}
		n := 0
		for k, why := range v.AllUnreadable() {
			if n++; k != key || why != step.why {
				t.Errorf("step %d: %v, %q", i, k, why)
			}
		}
		if (n > 0) != (step.why != "") {
			t.Errorf("step %d: %d cannot be read", i, n)
		}
	}
	if first.Unreadable(key) != "" {
		t.Error("a view has changed")
	}
}
