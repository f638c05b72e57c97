// Package namespace empties namespaces that are being deleted, then removes them.
package namespace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// unreadAgain is when a namespace is looked at again of which something is stored that cannot be read: its end wakes nobody.
const unreadAgain = 10 * time.Second

// New returns the reconciler of namespaces.
func New() loop.Reconciler {
	r := loop.Reconciler{
		Name:      "namespace",
		Component: "namespace-controller",
		Owner:     kinds.For[*corev1.Namespace](),
		Writes: []loop.Write{{
			Kind: kinds.For[*corev1.Namespace](), Delete: true, Fields: []string{"status.conditions"},
		}},
		Decide: decide,
	}
	for _, k := range contents() {
		r.Reads = append(r.Reads, loop.Read{Kind: k, How: "its namespace, while that is being deleted", Keys: terminatingNamespace})
		r.Writes = append(r.Writes, loop.Write{Kind: k, Delete: true})
	}
	return r
}

// contents are the kinds that live in namespaces. What expires is left to do so: events tell how the namespace ended.
func contents() []*kinds.Kind {
	return slices.DeleteFunc(slices.Clone(kinds.All), func(k *kinds.Kind) bool { return !k.Namespaced || k.Expires == kinds.Yes })
}

// going are the kinds whose objects are deleted now: pods before what they use and what guards them, as in Kubernetes, where a network
// policy that went first let a pod do what it forbade until that had ended.
func going(v *view.View, namespace string) []*kinds.Kind {
	for range view.List[*corev1.Pod](v, namespace) {
		return []*kinds.Kind{kinds.For[*corev1.Pod]()}
	}
	return contents()
}

func terminatingNamespace(v *view.View, o kinds.Object) []kinds.Key {
	ns, ok := view.Get[*corev1.Namespace](v, "", o.GetNamespace())
	if !ok || ns.DeletionTimestamp == nil {
		return nil
	}
	return []kinds.Key{kinds.KeyOf(ns)}
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	ns, ok := v.Get(key).(*corev1.Namespace)
	if !ok || ns.DeletionTimestamp == nil {
		return loop.Decision{}, nil
	}
	var d loop.Decision
	var remaining, finalizers []string
	holders := map[string]int{}
	for _, k := range going(v, ns.Name) {
		count := 0
		for o := range v.List(k.GroupResource(), ns.Name) {
			count++
			if o.GetDeletionTimestamp() == nil {
				d.Drops = append(d.Drops, loop.DropOf(o, "its namespace is being deleted"))
			}
			for _, f := range o.GetFinalizers() {
				holders[f]++
			}
		}
		if count > 0 {
			remaining = append(remaining, fmt.Sprintf("%s has %d resource instances", k.GroupResource(), count))
		}
	}
	for k := range v.AllUnreadable() { // nobody but who runs the cluster lets it go
		if k.Namespace == ns.Name && v.Get(k) == nil {
			remaining = append(remaining, fmt.Sprintf("%v cannot be read", k))
			d.Again = now.Add(unreadAgain)
		}
	}
	for f, n := range holders {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(finalizers)
	if len(remaining) == 0 {
		drop := loop.DropOf(ns, "nothing is left in it")
		drop.Now = true
		d.Drops = append(d.Drops, drop)
		return d, nil
	}
	d.Status = withConditions(ns, remaining, finalizers, now)
	return d, nil
}

// withConditions returns the namespace with Kubernetes' conditions of a namespace in deletion, or nil where it has them.
func withConditions(ns *corev1.Namespace, remaining, finalizers []string, now time.Time) kinds.Object {
	content := corev1.NamespaceCondition{
		Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionTrue, Reason: "SomeResourcesRemain",
		Message: "Some resources are remaining: " + strings.Join(remaining, ", "),
	}
	held := corev1.NamespaceCondition{
		Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionFalse, Reason: "ContentHasNoFinalizers",
		Message: "All content-preserving finalizers finished",
	}
	if len(finalizers) > 0 {
		held.Status, held.Reason = corev1.ConditionTrue, "SomeFinalizersRemain"
		held.Message = "Some content in the namespace has finalizers remaining: " + strings.Join(finalizers, ", ")
	}
	conditions := slices.Clone(ns.Status.Conditions)
	for _, c := range []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Status: corev1.ConditionFalse, Reason: "ResourcesDiscovered",
			Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Status: corev1.ConditionFalse, Reason: "ParsedGroupVersions",
			Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Reason: "ContentDeleted",
			Message: "All content successfully deleted, may be waiting on finalization"},
		content, held,
	} {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		i := slices.IndexFunc(conditions, func(old corev1.NamespaceCondition) bool { return old.Type == c.Type })
		if i < 0 {
			conditions = append(conditions, c)
			continue
		}
		if conditions[i].Status == c.Status {
			c.LastTransitionTime = conditions[i].LastTransitionTime
		}
		conditions[i] = c
	}
	if slices.Equal(conditions, ns.Status.Conditions) {
		return nil
	}
	changed := ns.DeepCopy()
	changed.Status.Conditions = conditions
	return changed
}
