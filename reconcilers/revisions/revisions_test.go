package revisions

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store/view"
)

func owner(image string) Owner {
	app := map[string]string{"app": "db"}
	return Owner{
		Object: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "db", UID: "set", Annotations: map[string]string{"kubernetes.io/change-cause": image},
		}},
		Selector: labels.SelectorFromSet(app),
		Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: app},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
		},
		HashLabel: "hash",
	}
}

// decided is what becomes of the revisions, a line each: name's letter, number, what is done.
func decided(t *testing.T, o Owner, limit int32, live string, have ...kinds.Object) (text string, h History) {
	t.Helper()
	h, err := Of(view.Of(have...), o)
	if err != nil {
		t.Fatal(err)
	}
	wants, drops := h.Plan(&limit, func(name string) bool { return strings.Contains(live, name) })
	var lines []string
	for _, w := range wants {
		r := w.Object.(*appsv1.ControllerRevision)
		name := r.Name
		if r.UID == "" {
			name = "new"
		}
		lines = append(lines, fmt.Sprintf("%s %d %s", name, r.Revision, w.Reason))
	}
	for _, d := range drops {
		lines = append(lines, fmt.Sprintf("%s dropped: %s", d.Key.Name, d.Reason))
	}
	return strings.Join(lines, "\n"), h
}

// made returns the revision that an owner's template is given, under another name.
func made(t *testing.T, image, name string, number int64, change ...func(*appsv1.ControllerRevision)) *appsv1.ControllerRevision {
	t.Helper()
	_, h := decided(t, owner(image), 10, "")
	r := h.Update
	r.Name, r.UID, r.Revision = name, types.UID(name), number
	for _, f := range change {
		f(r)
	}
	return r
}

func TestHistory(t *testing.T) {
	orphan := func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil }
	for _, c := range []struct {
		name, live string
		limit      int32
		have       []kinds.Object
		want       string
	}{
		{"the first", "", 10, nil, "new 1 new template"},
		{"the same", "", 10, []kinds.Object{made(t, "one", "a", 1)}, "a 1 in use"},
		{"another", "a", 10, []kinds.Object{made(t, "zero", "a", 1)}, "a 1 in use\nnew 2 new template"},
		{
			"back to one of before", "b", 10, []kinds.Object{made(t, "one", "a", 1), made(t, "two", "b", 2)},
			"a 3 the template is one of before\nb 2 in use",
		},
		{
			"more than the limit", "b", 1,
			[]kinds.Object{made(t, "x", "a", 1), made(t, "y", "b", 2), made(t, "z", "c", 3), made(t, "w", "d", 4), made(t, "one", "e", 5)},
			"b 2 in use\ne 5 in use\nd 4 history\na dropped: past the revision history limit\nc dropped: past the revision history limit",
		},
		{
			"a negative limit", "", -1, []kinds.Object{made(t, "x", "a", 1), made(t, "one", "b", 2)},
			"b 2 in use\na 1 history",
		},
		{"an orphan", "", 10, []kinds.Object{made(t, "one", "a", 1, orphan)}, "a 1 in use"},
		{
			"one that keeps no template", "", 10, []kinds.Object{made(t, "one", "a", 1, func(r *appsv1.ControllerRevision) {
				r.Data = runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}
			})}, "a 1 history\nnew 2 new template",
		},
	} {
		if got, _ := decided(t, owner("one"), c.limit, c.live, c.have...); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, got, c.want)
		}
	}
}

// TestTakenNames: a name that something else has is left to it, and counted.
func TestTakenNames(t *testing.T) {
	_, h := decided(t, owner("one"), 10, "")
	first := h.Update
	if h.Collisions != 0 || first.Labels["hash"] == "" || first.Name != "db-"+first.Labels["hash"] ||
		first.Annotations["kubernetes.io/change-cause"] != "one" {
		t.Errorf("%d collisions, %+v", h.Collisions, first.ObjectMeta)
	}
	taken := made(t, "other", first.Name, 1, func(r *appsv1.ControllerRevision) { r.OwnerReferences[0].UID = "somebody" })
	_, h = decided(t, owner("one"), 10, "", taken)
	if h.Collisions != 1 || h.Update.Name == first.Name || h.Update.Revision != 1 {
		t.Errorf("%d collisions, %s %d after %s", h.Collisions, h.Update.Name, h.Update.Revision, first.Name)
	}
	if tpl, err := Template(h.Update); err != nil || tpl.Spec.Containers[0].Image != "one" {
		t.Errorf("it keeps %+v, %v", tpl, err)
	}
}
