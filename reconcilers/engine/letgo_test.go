package engine_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestLastFinalizer: what is being deleted goes with its last finalizer, and not before.
func TestLastFinalizer(t *testing.T) {
	ownersOf := loop.ControllerKeys(kinds.For[*corev1.ConfigMap]())
	b := newBench(t, loop.Reconciler{
		Reads:  []loop.Read{{Kind: kinds.For[*corev1.Secret](), How: "the owner", Keys: ownersOf}},
		Writes: []loop.Write{{Kind: kinds.For[*corev1.Secret](), Fields: []string{"metadata.finalizers"}}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (d loop.Decision, _ error) {
			for s := range view.List[*corev1.Secret](v, "shop") {
				changed := s.DeepCopy()
				changed.Finalizers = slices.Delete(changed.Finalizers, 0, 1)
				d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "one is enough"})
			}
			return d, nil
		},
	})
	for name, finalizers := range map[string][]string{"one": {"example.com/a"}, "two": {"example.com/a", "example.com/b"}} {
		s := secret(b.View().Get(kinds.KeyOf(configMap("owner", nil))), name)
		s.Finalizers, s.DeletionTimestamp, s.DeletionGracePeriodSeconds = finalizers, &metav1.Time{Time: start}, new(int64)
		b.put(t, s, 0)
	}
	b.step.Step(t.Context())
	if left := b.secrets(); !slices.Equal(left, []string{"two"}) {
		t.Errorf("%v are left", left)
	}
	b.drain(t)
	if left := b.secrets(); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}
