package reconcilers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store"
	"lockstep/store/view"
)

// TestPodsLeaveASilentNode: after 10 s of silence and 300 s of tolerance its pods end, and others are made for those of a Deployment, none
// for those of a StatefulSet; where no node is heard of nobody ends.
func TestPodsLeaveASilentNode(t *testing.T) {
	for _, heard := range [][]string{{"n0", "n2"}, nil} {
		t.Run(fmt.Sprint(len(heard), " of 3 are heard of"), func(t *testing.T) {
			s := shop(t, 11, deploymentOf("web", 6, "one"))
			s.put(statefulSetOf(3, "one"))
			s.settle()
			there := len(slices.Collect(s.store.View().PodsOnNode("n1")))
			if there == 0 {
				t.Fatal("no pod is on n1")
			}
			ending := func() (n int) {
				for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
					if p.DeletionTimestamp != nil {
						n++
					}
				}
				return n
			}
			s.pass(305*time.Second, heard...)
			if n := ending(); n != 0 {
				t.Fatalf("%d pods end before their time", n)
			}
			s.pass(10*time.Second, heard...)
			switch n := ending(); {
			case heard == nil && n != 0:
				t.Errorf("%d pods end although no node is heard of", n)
			case heard != nil && n != there:
				t.Errorf("%d pods end, %d are on the node", n, there)
			}
			if active, _ := s.active(s.get("web")); len(active) != 6 {
				t.Errorf("%d pods of the deployment are there or to be, want 6", len(active))
			}
			for _, reason := range []string{"TaintManagerEviction", "DeletionByTaintManager"} {
				if found := s.told(reason); found != (heard != nil) {
					t.Errorf("%s is told: %v", reason, found)
				}
			}
		})
	}
}

// told says that an event or a pod's condition has a reason.
func (s *sim) told(reason string) bool {
	for e := range view.List[*corev1.Event](s.store.View(), "") {
		if e.Reason == reason {
			return true
		}
	}
	for p := range view.List[*corev1.Pod](s.store.View(), "") {
		if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Reason == reason }) {
			return true
		}
	}
	return false
}

// TestDrains drains one node after the other, and two at once, in any order with what loops and nodes do: never are fewer pods ready than
// the budget wants, pods leave the nodes that are drained, and nobody is evicted from another one.
func TestDrains(t *testing.T) {
	for seed := range uint64(short.Of(20)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := shop(t, seed, deploymentOf("web", 5, "one"))
			s.settle()
			random, wanted := rand.New(rand.NewPCG(seed, 3)), 1+int(seed%4)
			b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
			b.Spec.MinAvailable = new(intstr.FromInt(wanted))
			b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
			s.put(b)
			s.settle()
			draining := map[string]bool{}
			s.acts = func() bool { return s.drainedKubelet(draining) }
			s.faults = 10
			s.check = func() {
				ready := 0
				for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
					if p.DeletionTimestamp == nil && podstatus.Ready(&p.Status) {
						ready++
					}
				}
				if ready < wanted {
					t.Fatalf("%d pods are ready, the budget wants %d", ready, wanted)
				}
			}
			for _, name := range []string{"n0", "n1"} {
				draining[name] = true
				s.drain(name, true)
				if random.IntN(2) == 0 {
					s.rest(draining)
				}
			}
			s.rest(draining)
			for name := range draining {
				if left := slices.Collect(s.store.View().PodsOnNode(name)); len(left) > 0 {
					t.Errorf("%d pods are left on %s, the first is %s", len(left), name, left[0].Name)
				}
				n, _ := view.Get[*corev1.Node](s.store.View(), "", name)
				if c := kinds.NodeCondition(n, kinds.NodeDrained); c == nil || c.Status != corev1.ConditionTrue {
					t.Errorf("%s tells %+v", name, c)
				}
			}
		})
	}
}

// drain is what a node's manifest does.
func (s *sim) drain(name string, on bool) {
	n, _ := view.Get[*corev1.Node](s.store.View(), "", name)
	n = n.DeepCopy()
	n.Annotations, n.Spec.Unschedulable = map[string]string{kinds.DrainNode: fmt.Sprint(on)}, on
	s.write(store.Write{Key: kinds.KeyOf(n), Object: n, If: store.Anyway, Reason: "sync"})
}

// drainedKubelet is kubelet where nothing is bound to nodes that are drained.
func (s *sim) drainedKubelet(draining map[string]bool) bool {
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		if p.Spec.NodeName != "" {
			continue
		}
		bound := p.DeepCopy()
		for i := range 3 {
			if name := fmt.Sprintf("n%d", i); !draining[name] {
				bound.Spec.NodeName = name
			}
		}
		s.write(store.Write{Key: kinds.KeyOf(p), Object: bound, If: store.Anyway, Reason: "node"})
		return true
	}
	return s.kubelet()
}

// rest goes on until neither loops nor nodes have anything to do.
func (s *sim) rest(draining map[string]bool) {
	s.t.Helper()
	quiet := 0
	for turns := 0; quiet < 8; turns++ {
		if turns > 50_000 {
			s.t.Fatal("the cluster does not settle")
		}
		wrote, looked := s.turn()
		if wrote || !looked && s.drainedKubelet(draining) {
			quiet = 0
			continue
		} else if looked {
			continue
		}
		quiet++
		s.clock.Step(time.Second)
		s.beat()
	}
}
