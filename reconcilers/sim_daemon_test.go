package reconcilers

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controller/daemon/util"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/pods"
	"lockstep/store"
	"lockstep/store/view"
)

func daemonSetOf(name, image string) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	ds.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	ds.Spec.Template.Labels = labels
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: image}}
	return ds
}

// TestDaemonRollouts replaces the pods of daemon sets of random strategies in random orders of events, and checks after every
// single write that there are never more on a node than allowed, and never fewer available.
func TestDaemonRollouts(t *testing.T) {
	for seed := range short.Of(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, 3000+seed)
			s.put(namespaceOf("shop"))
			for i := 3; i < 3+s.rand.IntN(5); i++ {
				s.put(readyNode(i))
			}
			ds := daemonSetOf("log", "one")
			ds.Spec.MinReadySeconds = s.rand.Int32N(3)
			surge, unavailable, most := intstr.FromInt32(0), intstr.FromInt32(0), 1
			switch shape := intstr.FromInt32(1 + s.rand.Int32N(3)); s.rand.IntN(3) {
			case 0:
				unavailable = shape
			case 1:
				unavailable = intstr.FromString("30%")
			default:
				surge, most = shape, 2
			}
			ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &surge, MaxUnavailable: &unavailable}
			s.put(ds)
			s.settle()
			s.expectDaemons(ds, "one")

			nodes := s.store.View().Len(kinds.For[*corev1.Node]().GroupResource())
			down, err := util.UnavailableCount(s.daemonSet(), nodes)
			if err != nil {
				t.Fatal(err)
			}
			s.check = func() {
				available := 0
				for node, list := range s.daemons() {
					if len(list) > most {
						t.Fatalf("%d pods on %s, allowed are %d", len(list), node, most)
					}
					for _, p := range list {
						if ok, _ := podstatus.Available(&p.Status, time.Duration(ds.Spec.MinReadySeconds)*time.Second, s.clock.Now()); ok {
							available++
							break
						}
					}
				}
				if available < nodes-down {
					t.Fatalf("%d of %d nodes have an available pod, at most %d may have none", available, nodes, down)
				}
			}
			s.faults = s.rand.IntN(30)
			for range 1 + s.rand.IntN(3) {
				ds.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("image-%d", s.rand.IntN(3))
				s.put(ds)
				s.run(s.rand.IntN(120))
			}
			s.settle()
			s.expectDaemons(ds, ds.Spec.Template.Spec.Containers[0].Image)
		})
	}
}

// TestDaemonsEverywhere has nodes come, go and change, pods fail and be killed, and pushes in between, in random orders, and
// wants a pod on each node that is to have one in the end, and on no other.
func TestDaemonsEverywhere(t *testing.T) {
	for seed := range short.Of(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, 4000+seed)
			s.faults = s.rand.IntN(30)
			s.put(namespaceOf("shop"))
			ds := daemonSetOf("log", "one")
			ds.Spec.RevisionHistoryLimit = new(int32(2))
			surge, unavailable := intstr.FromInt32(0), intstr.FromInt32(1)
			if seed%2 == 1 {
				surge, unavailable = unavailable, surge
			}
			ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &surge, MaxUnavailable: &unavailable}
			ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "spare", Operator: corev1.NodeSelectorOpDoesNotExist}},
				}}},
			}}
			s.put(ds)
			most := 1 + surge.IntValue()
			s.check = func() {
				for node, list := range s.daemons() {
					if len(list) > most {
						t.Fatalf("%d pods on %s, allowed are %d", len(list), node, most)
					}
				}
			}
			for range 14 {
				node := fmt.Sprintf("n%d", s.rand.IntN(3))
				switch s.rand.IntN(5) {
				case 0:
					if more := readyNode(3 + s.rand.IntN(3)); s.store.View().Get(kinds.KeyOf(more)) == nil {
						s.put(more)
						s.beat()
					}
				case 1:
					changed, _ := view.Get[*corev1.Node](s.store.View(), "", node)
					changed = changed.DeepCopy()
					if changed.Labels == nil {
						changed.Labels = map[string]string{}
					}
					if _, spare := changed.Labels["spare"]; spare {
						delete(changed.Labels, "spare")
					} else {
						changed.Labels["spare"] = "true"
					}
					s.put(changed)
				case 2:
					ds.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("image-%d", s.rand.IntN(6))
					s.put(ds)
				case 3:
					if list := s.daemons()[node]; len(list) > 0 {
						p := list[0].DeepCopy()
						p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
						s.write(store.Write{Key: kinds.KeyOf(p), Object: p, If: store.Anyway, Reason: "test"})
					}
				case 4:
					if name := fmt.Sprintf("n%d", 3+s.rand.IntN(3)); s.store.View().Get(kinds.For[*corev1.Node]().Key("", name)) != nil {
						s.delete(kinds.For[*corev1.Node]().Key("", name))
					}
				}
				s.run(s.rand.IntN(60))
			}
			s.settle()
			// Pods of nodes that are no more are collected after 40 s.
			s.clock.Step(time.Minute)
			s.beat()
			s.settle()
			s.expectDaemons(ds, ds.Spec.Template.Spec.Containers[0].Image)
			if n := s.store.View().Len(kinds.For[*appsv1.ControllerRevision]().GroupResource()); n > 3 {
				t.Errorf("%d revisions, at most 3 are to stay", n)
			}
		})
	}
}

func readyNode(i int) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return node
}

func (s *sim) daemonSet() *appsv1.DaemonSet {
	s.t.Helper()
	ds, ok := view.Get[*appsv1.DaemonSet](s.store.View(), "shop", "log")
	if !ok {
		s.t.Fatal("no daemon set")
	}
	return ds
}

// daemons are the active pods of the daemon set, by the nodes that they are on or for.
func (s *sim) daemons() map[string][]*corev1.Pod {
	on := map[string][]*corev1.Pod{}
	for o := range s.store.View().Controlled(s.daemonSet().UID) {
		if p, ok := o.(*corev1.Pod); ok && pods.Active(p) {
			node, err := util.GetTargetNodeName(p)
			if err != nil {
				s.t.Fatal(err)
			}
			on[node] = append(on[node], p)
		}
	}
	return on
}

// expectDaemons wants one ready pod of the image on each node that is not spare, and a status that says so.
func (s *sim) expectDaemons(ds *appsv1.DaemonSet, image string) {
	s.t.Helper()
	on, nodes := s.daemons(), 0
	for node := range view.List[*corev1.Node](s.store.View(), "") {
		if _, spare := node.Labels["spare"]; spare {
			continue
		}
		nodes++
		if list := on[node.Name]; len(list) != 1 || list[0].Spec.Containers[0].Image != image || !podstatus.Ready(&list[0].Status) {
			s.t.Errorf("node %s has %v, want one ready pod of %s", node.Name, list, image)
		}
	}
	if len(on) != nodes {
		s.t.Errorf("%d nodes have pods, %d are to have one", len(on), nodes)
	}
	live := s.daemonSet()
	n := int32(nodes)
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: live.Generation, DesiredNumberScheduled: n, CurrentNumberScheduled: n, NumberReady: n, NumberAvailable: n,
		UpdatedNumberScheduled: n, CollisionCount: live.Status.CollisionCount,
	}
	if fmt.Sprint(live.Status) != fmt.Sprint(want) {
		s.t.Errorf("status = %+v, want %+v", live.Status, want)
	}
}
