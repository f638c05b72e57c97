package strategy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestDelete(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: named("cart")}
		p.Generation = 1
		p.Spec.NodeName = "a"
		p.Spec.TerminationGracePeriodSeconds = new(int64(30))
		change(p)
		return p
	}
	deleting := func(p *corev1.Pod, in, grace int64) {
		p.DeletionTimestamp = &metav1.Time{Time: noon.Add(time.Duration(in) * time.Second)}
		p.DeletionGracePeriodSeconds = &grace
	}
	namespace := func(change func(*corev1.Namespace)) *corev1.Namespace {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
		n.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
		change(n)
		return n
	}
	owner := metav1.OwnerReference{Name: "shop", Controller: new(true)}
	leaving := func(owner *metav1.OwnerReference) kinds.Object {
		rs := &appsv1.ReplicaSet{ObjectMeta: named("shop")}
		rs.Generation, rs.Annotations = 1, map[string]string{kinds.Cascade: kinds.CascadeOrphan}
		if owner != nil {
			rs.OwnerReferences = []metav1.OwnerReference{*owner}
		}
		return rs
	}
	none, short, negative := new(int64(0)), new(int64(5)), new(int64(-1))

	cases := []struct {
		name   string
		object kinds.Object
		grace  *int64
		want   string
	}{
		{"a bound pod", pod(func(*corev1.Pod) {}), nil, "12:00:30 grace 30 generation 2"},
		{"a bound pod, shortly", pod(func(*corev1.Pod) {}), short, "12:00:05 grace 5 generation 2"},
		{"a bound pod, negative grace", pod(func(*corev1.Pod) {}), negative, "12:00:01 grace 1 generation 2"},
		{"a bound pod, in centuries", pod(func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(9999999999)) }), nil,
			"12:00:00 grace 3153600000 generation 2"},
		{"a bound pod, at once", pod(func(*corev1.Pod) {}), none, "gone"},
		{"a pod that is not bound", pod(func(p *corev1.Pod) { p.Spec.NodeName = "" }), nil, "gone"},
		{"a finished pod", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), nil, "gone"},
		{"a Deployment", &appsv1.Deployment{ObjectMeta: named("shop")}, nil, "gone"},
		{"a replica set that leaves what it owns", leaving(nil), nil, "12:00:00 grace 0 generation 2 orphan"},
		{"a replica set whose controller said so of itself", leaving(&owner), nil, "gone"},
		{"a finished pod with a finalizer", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed; p.Finalizers = []string{"a/b"} }),
			nil, "12:00:00 grace 0 generation 2"},
		{"again", pod(func(p *corev1.Pod) { deleting(p, 20, 30) }), nil, "unchanged"},
		{"again, longer", pod(func(p *corev1.Pod) { deleting(p, 20, 30) }), new(int64(60)), "unchanged"},
		{"again, shorter", pod(func(p *corev1.Pod) { deleting(p, 30, 30) }), short, "12:00:05 grace 5 generation 1"},
		{"again, shorter than what has passed", pod(func(p *corev1.Pod) { deleting(p, 10, 30) }), short, "12:00:00 grace 1 generation 1"},
		{"again, at once", pod(func(p *corev1.Pod) { deleting(p, 20, 30) }), none, "gone"},
		{"again, at once, with a finalizer", pod(func(p *corev1.Pod) { deleting(p, 20, 30); p.Finalizers = []string{"a/b"} }), none,
			"12:00:00 grace 0 generation 1"},
		{"once more, with a finalizer", pod(func(p *corev1.Pod) { deleting(p, 0, 0); p.Finalizers = []string{"a/b"} }), none, "unchanged"},
		{"another kind", aService("cart"), nil, "gone"},
		{"a namespace", namespace(func(*corev1.Namespace) {}), nil, "12:00:00 grace none generation 0"},
		{"a namespace again", namespace(func(n *corev1.Namespace) { n.DeletionTimestamp = &metav1.Time{Time: noon} }), nil, "unchanged"},
		{"an empty namespace",
			namespace(func(n *corev1.Namespace) { n.DeletionTimestamp = &metav1.Time{Time: noon}; n.Spec.Finalizers = nil }), nil, "gone"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := fmt.Sprint(c.object)
			changed, gone := Delete(c.object, noon, c.grace)
			got := "unchanged"
			switch {
			case gone:
				got = "gone"
			case changed != nil:
				grace := "none"
				if s := changed.GetDeletionGracePeriodSeconds(); s != nil {
					grace = fmt.Sprint(*s)
				}
				got = fmt.Sprintf("%s grace %s generation %d", changed.GetDeletionTimestamp().Format(time.TimeOnly), grace,
					changed.GetGeneration())
				if slices.Contains(changed.GetFinalizers(), metav1.FinalizerOrphanDependents) {
					got += " orphan"
				}
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if fmt.Sprint(c.object) != before {
				t.Error("the object was changed")
			}
			if ns, ok := changed.(*corev1.Namespace); ok && ns.Status.Phase != corev1.NamespaceTerminating {
				t.Errorf("phase %s", ns.Status.Phase)
			}
		})
	}
}
