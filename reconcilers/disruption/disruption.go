// Package disruption says in the status of PodDisruptionBudgets how many of their pods may be disrupted.
package disruption

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler of budgets.
func New() loop.Reconciler {
	budget := kinds.For[*policyv1.PodDisruptionBudget]()
	r := loop.Reconciler{
		Name:      "disruption",
		Component: "controllermanager",
		Owner:     budget,
		Reads: []loop.Read{
			{Kind: kinds.For[*corev1.Pod](), How: "the budgets that select it", Keys: selecting},
			{Kind: budget, How: "those of its namespace", Keys: beside, Changed: specChanged},
		},
		Writes: []loop.Write{{Kind: budget, Fields: []string{"status"}}},
		Decide: decide,
	}
	for _, k := range kinds.All {
		if k.Scalable() {
			r.Reads = append(r.Reads, loop.Read{Kind: k, How: "the budgets of its namespace", Keys: beside, Changed: scaleChanged})
		}
	}
	return r
}

func selecting(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for b := range view.List[*policyv1.PodDisruptionBudget](v, o.GetNamespace()) {
		if selects(b, o) {
			keys = append(keys, kinds.KeyOf(b))
		}
	}
	return keys
}

func beside(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for b := range view.List[*policyv1.PodDisruptionBudget](v, o.GetNamespace()) {
		keys = append(keys, kinds.KeyOf(b))
	}
	return keys
}

func specChanged(old, new kinds.Object) bool { return old.GetGeneration() != new.GetGeneration() }

func scaleChanged(old, new kinds.Object) bool { return scaleOf(old) != scaleOf(new) }

// scaleOf is how many pods an object of a kind that is scaled wants.
func scaleOf(o kinds.Object) int32 {
	if s := kinds.Of(o).Scale(o); s != nil && s.Wanted != nil {
		return *s.Wanted
	}
	return 1
}

// selects says whether a budget is about a pod; one without a selector is about none.
func selects(b *policyv1.PodDisruptionBudget, pod kinds.Object) bool {
	s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && s.Matches(labels.Set(pod.GetLabels()))
}

func decide(v *view.View, key kinds.Key, now time.Time) (d loop.Decision, err error) {
	b, ok := v.Get(key).(*policyv1.PodDisruptionBudget)
	if !ok || b.DeletionTimestamp != nil {
		return d, nil
	}
	var pods []*corev1.Pod
	for p := range view.List[*corev1.Pod](v, b.Namespace) {
		if selects(b, p) {
			pods = append(pods, p)
		}
	}
	tell := func(kind, reason, message string) {
		d.Events = append(d.Events, loop.Event{Type: kind, Reason: reason, Message: message})
	}
	if len(pods) == 0 {
		tell(corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	gone := expectedGone(b, pods, now)
	c, err := count(v, b, pods, gone.pods)
	if err != nil {
		tell(corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: "+err.Error())
	} else if c.unmanaged {
		tell(corev1.EventTypeWarning, "UnmanagedPods", fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector))
	}
	if err == nil {
		d.Events, d.Again = append(d.Events, gone.late...), gone.until
	}
	shared := sharedWith(v, b, pods)
	status := statusOf(b, c, err, gone.pods, shared, now)
	if old := meta.FindStatusCondition(b.Status.Conditions, kinds.BudgetsShare); shared != "" && (old == nil || old.Message != shared) {
		tell(corev1.EventTypeWarning, "MultiplePodDisruptionBudgets", shared)
	}
	if !equality.Semantic.DeepEqual(status, b.Status) {
		changed := b.DeepCopy()
		changed.Status = status
		d.Status = changed
	}
	return d, nil
}

// sums are what a budget counts.
type sums struct {
	healthy, desired, expected int32
	// unmanaged says that a pod has no controller, and that its number was wanted.
	unmanaged bool
}

// count is of a budget and its pods what Kubernetes' disruption controller counts.
func count(v *view.View, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, gone map[string]metav1.Time) (c sums, err error) {
	for _, p := range pods {
		if _, ends := gone[p.Name]; !ends && p.DeletionTimestamp == nil && podstatus.Ready(&p.Status) {
			c.healthy++
		}
	}
	bound := b.Spec.MaxUnavailable
	if bound == nil {
		bound = b.Spec.MinAvailable
	}
	switch {
	case bound == nil:
		return c, nil
	case b.Spec.MaxUnavailable == nil && bound.Type == intstr.Int:
		c.desired, c.expected = bound.IntVal, int32(len(pods))
		return c, nil
	}
	if c.expected, c.unmanaged, err = expected(v, pods); err != nil {
		return c, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(bound, int(c.expected), true)
	if err != nil {
		return c, err
	}
	c.desired = int32(n)
	if b.Spec.MaxUnavailable != nil {
		c.desired = max(0, c.expected-int32(n))
	}
	return c, nil
}

// expected adds up the scales of the pods' controllers, each once.
func expected(v *view.View, pods []*corev1.Pod) (sum int32, unmanaged bool, err error) {
	scales := map[types.UID]int32{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged = true
			continue
		}
		if _, known := scales[ref.UID]; known {
			continue
		}
		o, err := controllerOf(v, p.Namespace, ref)
		if err == nil && o == nil {
			err = fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		if err != nil {
			return 0, unmanaged, err
		}
		scales[o.GetUID()] = scaleOf(o)
	}
	for _, n := range scales {
		sum += n
	}
	return sum, unmanaged, nil
}

// controllerOf finds who says how many pods there should be: of a Deployment's ReplicaSet the Deployment. Nil: it is gone.
func controllerOf(v *view.View, namespace string, ref *metav1.OwnerReference) (kinds.Object, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	k := kinds.ForGVK(gvk)
	switch {
	case k == nil:
		return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	case !k.Scalable():
		return nil, errors.New(k.GroupResource().String() + " does not implement the scale subresource")
	}
	o := v.Get(k.Key(namespace, ref.Name))
	if o == nil || o.GetUID() != ref.UID {
		return nil, nil
	}
	if above := metav1.GetControllerOfNoCopy(o); above != nil && above.Kind == "Deployment" {
		if d, ok := view.Get[*appsv1.Deployment](v, namespace, above.Name); ok && d.UID == above.UID {
			return d, nil
		}
	}
	return o, nil
}

// sharedWith says which pod another budget selects, too, and which do; empty: none does.
func sharedWith(v *view.View, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) string {
	budgets := slices.Collect(view.List[*policyv1.PodDisruptionBudget](v, b.Namespace))
	if len(budgets) < 2 {
		return ""
	}
	for _, p := range pods {
		var names []string
		for _, other := range budgets {
			if selects(other, p) {
				names = append(names, other.Name)
			}
		}
		if len(names) > 1 {
			return fmt.Sprintf("Pod %q/%q matches multiple PodDisruptionBudgets: %s", p.Namespace, p.Name, strings.Join(names, ", "))
		}
	}
	return ""
}

// patience is how long a pod may be there of which a program has said that it ends, before it counts again: Kubernetes' DeletionTimeout.
const patience = 2 * time.Minute

// ending are pods of a budget that are expected to end.
type ending struct {
	pods  map[string]metav1.Time // since when; nil: none
	until time.Time              // when the first of them counts again; zero: none does
	late  []loop.Event           // about those that count again
}

// expectedGone is what a budget's status says of its pods that end, without those that are gone, that end or that have not ended in
// time. What is said of a time to come is said now: it holds for no longer.
func expectedGone(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (e ending) {
	for _, p := range pods {
		since, said := b.Status.DisruptedPods[p.Name]
		if !said || p.DeletionTimestamp != nil {
			continue
		}
		if since.After(now) {
			since = metav1.NewTime(now.Truncate(time.Second))
		}
		due := since.Add(patience)
		if due.Before(now) {
			e.late = append(e.late, loop.Event{About: p, Type: corev1.EventTypeWarning, Reason: "NotDeleted", Message: fmt.Sprintf(
				"Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Namespace)})
			continue
		}
		if e.pods == nil {
			e.pods = map[string]metav1.Time{}
		}
		if e.pods[p.Name] = since; e.until.IsZero() || due.Before(e.until) {
			e.until = due
		}
	}
	return e
}

// statusOf is the status of a budget that counts c, or cannot.
func statusOf(b *policyv1.PodDisruptionBudget, c sums, cannot error, gone map[string]metav1.Time, shared string,
	now time.Time) policyv1.PodDisruptionBudgetStatus {
	s, at := *b.Status.DeepCopy(), metav1.NewTime(now.Truncate(time.Second))
	s.ObservedGeneration, s.DisruptionsAllowed = b.Generation, 0
	allowed := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: b.Generation, LastTransitionTime: at,
	}
	switch {
	case cannot != nil:
		allowed.Reason, allowed.Message = policyv1.SyncFailedReason, cannot.Error()
	default:
		s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptedPods = c.healthy, c.desired, c.expected, gone
		if c.expected > 0 && c.healthy > c.desired {
			s.DisruptionsAllowed = c.healthy - c.desired
			allowed.Status, allowed.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
		}
	}
	meta.SetStatusCondition(&s.Conditions, allowed)
	if shared == "" {
		meta.RemoveStatusCondition(&s.Conditions, kinds.BudgetsShare)
		return s
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: kinds.BudgetsShare, Status: metav1.ConditionTrue, Reason: kinds.BudgetsShare, Message: shared,
		ObservedGeneration: b.Generation, LastTransitionTime: at,
	})
	return s
}
