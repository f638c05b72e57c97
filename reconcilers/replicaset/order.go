package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

// deletionOrder returns the pods in the order in which Kubernetes deletes them: the ones whose loss hurts least first.
// One rule is added to Kubernetes': a pod that is ready but not for minReadySeconds goes before one that is available.
// Without it a deployment that gives up an unavailable pod could lose an available one, and break its promise.
func deletionOrder(active []*corev1.Pod, minReadySeconds int32, crowd map[string]int, now time.Time) []*corev1.Pod {
	available := func(p *corev1.Pod) bool {
		ok, _ := podstatus.Available(&p.Status, time.Duration(minReadySeconds)*time.Second, now)
		return ok
	}
	return slices.SortedStableFunc(slices.Values(active), func(a, b *corev1.Pod) int {
		return cmp.Or(
			pods.Progress(a, b),
			pods.FalseFirst(available(a), available(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
			youngerFirst(a, b, podstatus.ReadySince(&a.Status), podstatus.ReadySince(&b.Status), now),
			pods.Restarts(a, b),
			youngerFirst(a, b, a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
		)
	})
}

// podsPerNode counts, by node, the active pods of this replica set and of its siblings, those with the same controller:
// of a Deployment's pods on one node, the replica set gives up its own first.
func (f form[T]) podsPerNode(v *view.View, rs *appsv1.ReplicaSet) map[string]int {
	siblings := []*appsv1.ReplicaSet{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		for o := range v.Controlled(ref.UID) {
			if sibling, ok := o.(T); ok && sibling.GetUID() != rs.UID {
				siblings = append(siblings, f.set(sibling))
			}
		}
	}
	count := map[string]int{}
	for _, sibling := range siblings {
		for o := range v.Controlled(sibling.UID) {
			if p, ok := o.(*corev1.Pod); ok && pods.Active(p) {
				count[p.Spec.NodeName]++
			}
		}
	}
	return count
}

// deletionCost reads the annotation controller.kubernetes.io/pod-deletion-cost; none, or no number, is 0.
func deletionCost(p *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// youngerFirst compares ages by the power of two they lie in, so that among pods of about one age the uid decides,
// which is as good as chance. An unknown time counts as the youngest.
func youngerFirst(a, b *corev1.Pod, at, bt, now time.Time) int {
	switch {
	case at.Equal(bt):
		return 0
	case at.IsZero():
		return -1
	case bt.IsZero():
		return 1
	}
	return cmp.Or(cmp.Compare(magnitude(now.Sub(at)), magnitude(now.Sub(bt))), cmp.Compare(a.UID, b.UID))
}

func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}
