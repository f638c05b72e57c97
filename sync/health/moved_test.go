package health

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestMovedTags: that a pod's tag has moved is told of the workload that asks for it, which stays healthy; of one that does not ask,
// nothing.
func TestMovedTags(t *testing.T) {
	const which = "the tag of image cart:1 has moved from sha256:1 to sha256:2"
	asks := map[string]string{"lockstep.dev/track-image": "true"}
	meta := func(name, owner string, annotations map[string]string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Generation: 1, Annotations: annotations}
		if owner != "" {
			m.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner), Controller: new(true)}}
		}
		return m
	}
	objects := func(annotations map[string]string, conditions ...corev1.PodCondition) []kinds.Object {
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}
		d := &appsv1.Deployment{ObjectMeta: meta("cart", "", nil), Spec: appsv1.DeploymentSpec{Replicas: new(int32(1)), Template: template},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}}
		rs := &appsv1.ReplicaSet{ObjectMeta: meta("cart-1", "cart", nil), Spec: appsv1.ReplicaSetSpec{Template: template}}
		p := &corev1.Pod{ObjectMeta: meta("cart-1-a", "cart-1", annotations)}
		p.Status.Conditions = append(conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		return []kinds.Object{d, rs, p}
	}
	moved := corev1.PodCondition{Type: "lockstep.dev/ImageMoved", Status: corev1.ConditionTrue, Message: which}
	for name, c := range map[string]struct {
		objects []kinds.Object
		want    string
	}{
		"moved":          {objects(asks, moved), which},
		"not moved":      {objects(asks), ""},
		"nobody asks":    {objects(nil, moved), ""},
		"asked by false": {objects(map[string]string{"lockstep.dev/track-image": "false"}, moved), ""},
	} {
		judge := At(view.Of(c.objects...), now)
		for _, o := range []kinds.Object{c.objects[0], c.objects[2]} {
			h := judge.Of(kinds.KeyOf(o))
			if h.State != kinds.Healthy || h.Drift != c.want {
				t.Errorf("%s: %s: %+v", name, o.GetName(), h)
			}
		}
		sum := NewSum()
		sum.Add(kinds.KeyOf(c.objects[0]), judge.Of(kinds.KeyOf(c.objects[0])))
		want := ""
		if c.want != "" {
			want = "Deployment shop/cart: " + c.want
		}
		if sum.Drift != want || sum.Healthy != 1 {
			t.Errorf("%s: %+v", name, sum.Roll)
		}
	}
}
