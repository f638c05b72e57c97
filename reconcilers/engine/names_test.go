package engine

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestNames: a seed gives the same names again, none that is there, and another seed gives others.
func TestNames(t *testing.T) {
	generate := func(v *view.View, seed uint64, n int) (list []kinds.Object) {
		from := names{seed: seed}
		for range n {
			p := &corev1.Pod{}
			p.Namespace, p.GenerateName = "shop", strings.Repeat("x", 70)
			from.generate(v, p)
			list = append(list, p)
		}
		return list
	}
	distinct := map[string]bool{}
	first := generate(view.Of(), 1, 500)
	for _, o := range first {
		distinct[o.GetName()] = true
		if len(o.GetName()) != 63 {
			t.Errorf("%q has %d characters", o.GetName(), len(o.GetName()))
		}
	}
	if len(distinct) < 499 { // 500 of 27^5 meet in one case of a hundred
		t.Errorf("%d names for 500 pods", len(distinct))
	}
	if again := generate(view.Of(), 1, 1); again[0].GetName() != first[0].GetName() {
		t.Errorf("one seed gave %s, then %s", first[0].GetName(), again[0].GetName())
	}
	if other := generate(view.Of(), 2, 1); distinct[other[0].GetName()] {
		t.Errorf("two seeds gave %s", other[0].GetName())
	}
	if next := generate(view.Of(first[0]), 1, 1); next[0].GetName() != first[1].GetName() {
		t.Errorf("where %s is there, %s was generated", first[0].GetName(), next[0].GetName())
	}
}
