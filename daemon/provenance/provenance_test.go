package provenance

import (
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/origin"
	"lockstep/sync/plan"
)

func owned(name, kind, owner string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}
	if owner != "" {
		yes := true
		m.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: kind, Name: owner, UID: types.UID(owner), Controller: &yes,
		}}
	}
	return m
}

func TestOf(t *testing.T) {
	deployment := &appsv1.Deployment{ObjectMeta: owned("d", "", "")}
	set := &appsv1.ReplicaSet{ObjectMeta: owned("rs", "Deployment", "d")}
	pod := &corev1.Pod{ObjectMeta: owned("p", "ReplicaSet", "rs")}
	stray := &corev1.Pod{ObjectMeta: owned("stray", "ReplicaSet", "rs")}
	stray.OwnerReferences[0].UID = "an earlier rs"
	source := &v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: "main"}}
	db := view.NewDB()
	var changes []view.Change
	for _, o := range []kinds.Object{deployment, set, pod, stray, source} {
		changes = append(changes, view.Change{Key: kinds.KeyOf(o), New: o})
	}
	db.Apply(1, changes)
	declare := func(rev int64, line int) *view.Record {
		data, err := json.Marshal(plan.Desired{Source: "main", Origin: origin.Origin{File: "a.yaml", Line: line}, Commit: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		r := &view.Record{Table: string(plan.Inventory), Name: "main/" + kinds.KeyOf(deployment).Path(), Data: data, Revision: rev}
		db.Apply(rev, []view.Change{{NewRecord: r}})
		return r
	}
	f := New()
	for rev, line := range map[int64]int{2: 4, 3: 9} {
		r := declare(rev, line)
		for _, o := range []kinds.Object{deployment, set, pod} {
			if got, ok := f.Of(db.View(), o); !ok || got.Line != line || got.Commit != "c1" {
				t.Errorf("%v comes from %v, %v; want line %d", kinds.KeyOf(o), got, ok, line)
			}
		}
		f.Forget(view.Change{OldRecord: r})
	}
	if got, ok := f.Of(db.View(), stray); ok {
		t.Errorf("a pod of an earlier owner comes from %v", got)
	}
}

func TestOriginsArePlain(t *testing.T) {
	data := []byte(`{"source":"main","file":"a\u001b[31m\u202e.yaml","line":4,"commit":"c\n1","author":"Ada\u009b <a@example>"}`)
	origin := New().parse(view.Record{Name: "main/x", Data: data})
	want := Origin{Source: "main", File: `a\x1b[31m\u202e.yaml`, Line: 4, Commit: `c\n1`, Author: `Ada\u009b <a@example>`}
	if *origin != want {
		t.Errorf("%+v", *origin)
	}
}

func TestAnnotations(t *testing.T) {
	given := map[string]string{"mine": "x"}
	annotated := Origin{Source: "main", File: "a.yaml", Line: 4, Commit: "c1"}.Annotate(given)
	if annotated[AnnotationFile] != "a.yaml:4" || annotated["mine"] != "x" || len(given) != 1 || len(annotated) != 4 {
		t.Errorf("Annotate gives %v", annotated)
	}
	if stripped := Strip(annotated); len(stripped) != 1 {
		t.Errorf("Strip leaves %v", stripped)
	}
	if Strip(Origin{Source: "main"}.Annotate(nil)) != nil {
		t.Error("Strip of nothing else is not nil")
	}
}
