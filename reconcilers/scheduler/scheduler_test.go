package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/eventually"
	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

func quantities(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

// node returns a ready node; change may be nil.
func node(name, allocatable string, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
	n.Status.Allocatable = quantities(allocatable)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if change != nil {
		change(n)
	}
	return n
}

func pod(name, requests string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name)}}
	p.Spec.Containers = []corev1.Container{{Name: "main"}}
	p.Spec.Containers[0].Resources.Requests = quantities(requests)
	if change != nil {
		change(p)
	}
	return p
}

func on(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

func owned(uid string) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: uid, UID: types.UID(uid), Controller: &yes}}
	}
}

func hostPorted(port int32, ip string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: port, HostIP: ip, Protocol: corev1.ProtocolTCP}}
	}
}

func tainted(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func zoneAffinity(required bool, zone string) func(*corev1.Pod) {
	term := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{zone}},
	}}
	return func(p *corev1.Pod) {
		a := &corev1.NodeAffinity{}
		if required {
			a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}
		} else {
			a.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{Weight: 10, Preference: term}}
		}
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: a}
	}
}

func zone(z string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels["zone"] = z } }

func app(name string) map[string]string { return map[string]string{"app": name} }

func byApp(name string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: app(name)}, TopologyKey: corev1.LabelHostname}}
}

func away(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: byApp(name),
		}}
	}
}

func near(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: byApp(name),
		}}
	}
}

// spreadBy has a pod of the app a spread with others of it.
func spreadBy(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = app("a")
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: app("a")},
		}}
	}
}

const big = "cpu=4 memory=8Gi pods=10"

func TestDecide(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		there []*corev1.Pod
		pod   *corev1.Pod
		want  string // the node's name, or the refusal
	}{
		{"no nodes", nil, nil, pod("p", "", nil), "no nodes available to schedule pods"},
		{"an empty node", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "cpu=1", nil), "a"},
		{"exactly full", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "cpu=4 memory=8Gi", nil), "a"},
		{
			"counted reasons", []*corev1.Node{
				node("a", big, tainted("node-role.kubernetes.io/control-plane", "", corev1.TaintEffectNoSchedule)),
				node("b", "cpu=1 memory=1Gi pods=10", nil), node("c", "cpu=2 memory=8Gi pods=10", nil),
			},
			nil, pod("p", "cpu=3 memory=2Gi", nil),
			"0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, " +
				"2 Insufficient cpu.",
		},
		{"used up", []*corev1.Node{node("a", big, nil)}, []*corev1.Pod{pod("o", "cpu=3500m", on("a"))}, pod("p", "cpu=1", nil),
			"0/1 nodes are available: 1 Insufficient cpu."},
		{"finished pods free their node", []*corev1.Node{node("a", big, nil)}, []*corev1.Pod{pod("o", "cpu=4", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Phase = "a", corev1.PodSucceeded
		})}, pod("p", "cpu=4", nil), "a"},
		{"too many pods", []*corev1.Node{node("a", "cpu=4 memory=8Gi pods=1", nil)},
			[]*corev1.Pod{pod("o", "", on("a"))}, pod("p", "", nil),
			"0/1 nodes are available: 1 Too many pods."},
		{"ephemeral storage", []*corev1.Node{node("a", big+" ephemeral-storage=1Gi", nil)}, nil, pod("p", "ephemeral-storage=2Gi", nil),
			"0/1 nodes are available: 1 Insufficient ephemeral-storage."},
		{"extended resource", []*corev1.Node{node("a", big, nil), node("b", big+" example.com/gpu=1", nil)}, nil,
			pod("p", "example.com/gpu=1", nil), "b"},
		{"extended resource used up", []*corev1.Node{node("b", big+" example.com/gpu=1", nil)},
			[]*corev1.Pod{pod("o", "example.com/gpu=1", on("b"))},
			pod("p", "example.com/gpu=1", nil), "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{"cordon", []*corev1.Node{node("a", big, func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil, pod("p", "", nil),
			"0/1 nodes are available: 1 node(s) were unschedulable."},
		{"cordon tolerated", []*corev1.Node{node("a", big, func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil,
			pod("p", "", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}
			}), "a"},
		{"not ready", []*corev1.Node{node("a", big, func(n *corev1.Node) { n.Status.Conditions = nil })}, nil, pod("p", "", nil),
			"0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."},
		{"unreachable", []*corev1.Node{node("a", big, func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })},
			nil, pod("p", "", nil), "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."},
		{"taint tolerated", []*corev1.Node{node("a", big, tainted("k", "v", corev1.TaintEffectNoExecute))}, nil,
			pod("p", "", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpEqual, Value: "v"}}
			}), "a"},
		{"rather not a taint to avoid",
			[]*corev1.Node{node("a", big, tainted("k", "v", corev1.TaintEffectPreferNoSchedule)), node("b", big, nil)},
			[]*corev1.Pod{pod("o", "cpu=2", on("b"))}, pod("p", "cpu=100m", nil), "b"},
		{"node selector", []*corev1.Node{node("a", big, nil), node("b", big, zone("x"))}, nil,
			pod("p", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "x"} }), "b"},
		{"affinity required", []*corev1.Node{node("a", big, zone("x"))}, nil, pod("p", "", zoneAffinity(true, "y")),
			"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"affinity preferred", []*corev1.Node{node("a", big, zone("x")), node("b", big, zone("y"))},
			[]*corev1.Pod{pod("o", "cpu=1", on("b"))},
			pod("p", "cpu=100m", zoneAffinity(false, "y")), "b"},
		{"host port", []*corev1.Node{node("a", big, nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); hostPorted(80, "")(p) })},
			pod("p", "", hostPorted(80, "10.0.0.1")),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port of another address", []*corev1.Node{node("a", big, nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); hostPorted(80, "10.0.0.2")(p) })},
			pod("p", "", hostPorted(80, "10.0.0.1")), "a"},
		{"least allocated", []*corev1.Node{node("a", big, nil), node("b", big, nil)}, []*corev1.Pod{pod("o", "cpu=1 memory=2Gi", on("a"))},
			pod("p", "cpu=1 memory=2Gi", nil), "b"},
		{"balanced", []*corev1.Node{node("a", big, nil), node("b", big, nil)},
			[]*corev1.Pod{pod("o", "cpu=2", on("a")), pod("q", "memory=4Gi", on("b"))}, pod("p", "cpu=100m memory=3Gi", nil), "a"},
		{"spread", []*corev1.Node{node("a", big, nil), node("b", big, nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); owned("rs")(p) }), pod("q", "cpu=1 memory=1Gi", on("b"))},
			pod("p", "cpu=100m", owned("rs")), "b"},
		{"kept away from another pod", []*corev1.Node{node("a", big, nil), node("b", big, nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); p.Labels = app("a") })}, pod("p", "cpu=100m", away("a")), "b"},
		{"kept away by another pod", []*corev1.Node{node("a", big, nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); away("b")(p) })},
			pod("p", "", func(p *corev1.Pod) { p.Labels = app("b") }),
			"0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"nowhere away from others", []*corev1.Node{node("a", big, nil), node("b", "cpu=1 memory=1Gi pods=0", nil)},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); p.Labels = app("a") })}, pod("p", "", away("a")),
			"0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match pod anti-affinity rules."},
		{"nobody to be near", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "", near("a")),
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"near itself", []*corev1.Node{node("a", big, nil)}, nil,
			pod("p", "", func(p *corev1.Pod) { near("a")(p); p.Labels = app("a") }), "a"},
		{"near another", []*corev1.Node{node("a", big, nil), node("b", big, nil)},
			[]*corev1.Pod{pod("o", "cpu=3", func(p *corev1.Pod) { on("b")(p); p.Labels = app("a") })}, pod("p", "", near("a")), "b"},
		{"spread by a label that no node has", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "", spreadBy("zone")),
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"spread over zones", []*corev1.Node{node("a", big, zone("x")), node("b", "cpu=1 memory=1Gi pods=0", zone("y"))},
			[]*corev1.Pod{pod("o", "", func(p *corev1.Pod) { on("a")(p); p.Labels = app("a") })}, pod("p", "", spreadBy("zone")),
			"0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints."},
		{"init containers", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "cpu=1", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: quantities("cpu=5")}}}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
		{"sidecars add up", []*corev1.Node{node("a", big, nil)}, nil, pod("p", "cpu=3", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", RestartPolicy: &always,
				Resources: corev1.ResourceRequirements{Requests: quantities("cpu=2")}}}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
	} {
		t.Run(c.name, func(t *testing.T) {
			var objs []kinds.Object
			for _, n := range c.nodes {
				objs = append(objs, n)
			}
			for _, p := range c.there {
				objs = append(objs, p)
			}
			plan := Decide(NewState(view.Of(objs...)), []*corev1.Pod{c.pod}, 1)
			got := ""
			if len(plan.Bindings) == 1 {
				got = plan.Bindings[0].Node
			} else if len(plan.Refusals) == 1 {
				got, _, _ = strings.Cut(plan.Refusals[0].Reason, " preemption: ")
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestPriorityDecidesFirst: where there is room for one, the pod of the highest priority gets it, then the oldest.
func TestPriorityDecidesFirst(t *testing.T) {
	var pods []kinds.Object
	for i, p := range []struct {
		name     string
		priority int32
	}{{"none", 0}, {"old-low", 10}, {"low", 10}, {"system", 2000001000}, {"below", -2147483648}} {
		pods = append(pods, pod(p.name, "", func(o *corev1.Pod) {
			o.Spec.Priority = &p.priority
			o.CreationTimestamp = metav1.NewTime(time.Unix(int64(i), 0))
		}))
	}
	var got []string
	for _, p := range NewState(view.Of(pods...)).Pending(func(kinds.Key) bool { return true }) {
		got = append(got, p.Name)
	}
	if want := []string{"system", "old-low", "low", "none", "below"}; !slices.Equal(got, want) {
		t.Errorf("decided in the order %v, want %v", got, want)
	}
}

func TestDecideSpreadsAndFills(t *testing.T) {
	var objs []kinds.Object
	for i := range 4 {
		objs = append(objs, node(fmt.Sprintf("n%d", i), "cpu=2 memory=8Gi pods=10", nil))
	}
	s := NewState(view.Of(objs...))
	var pods []*corev1.Pod
	for i := range 10 {
		pods = append(pods, pod(fmt.Sprintf("p%d", i), "cpu=1", owned("rs")))
	}
	plan := Decide(s, pods, 7)
	on := map[string]int{}
	for _, b := range plan.Bindings {
		on[b.Node]++
	}
	if want := map[string]int{"n0": 2, "n1": 2, "n2": 2, "n3": 2}; !reflect.DeepEqual(on, want) {
		t.Errorf("placed %v, want %v", on, want)
	}
	if len(plan.Refusals) != 2 || plan.Refusals[0].Reason != "0/4 nodes are available: 4 Insufficient cpu. "+
		"preemption: 0/4 nodes are available: 4 No preemption victims found for incoming pod." {
		t.Errorf("refusals %+v", plan.Refusals)
	}
	if again := Decide(s, pods, 7); !reflect.DeepEqual(again, plan) {
		t.Error("equal arguments give another plan: the state was changed")
	}
	if !reflect.DeepEqual(normal(s), normal(NewState(view.Of(objs...)))) {
		t.Error("deciding changed the state")
	}
}

// TestFold walks random changes and wants the folded state to equal that of the view, after each.
func TestFold(t *testing.T) {
	for seed := range short.Of(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		db := view.NewDB()
		s := NewState(db.View())
		for step := range 200 {
			c := randomChange(r, db.View())
			if c.Old == nil && c.New == nil {
				continue
			}
			db.Apply(int64(step+1), []view.Change{c})
			s.Fold(c)
			if want := NewState(db.View()); !reflect.DeepEqual(normal(s), normal(want)) {
				t.Fatalf("seed %d, step %d: after %v the state is\n%+v\nwant\n%+v", seed, step, c.Key, normal(s), normal(want))
			}
		}
	}
}

// normal is a state in a form that can be compared: without the table, empty maps nil, groups by their keys, and the pods of nodes by
// their names.
func normal(s *State) any {
	type plain struct {
		infos     map[string]nodeInfo
		there     map[string][]string
		names     []string
		placed    map[kinds.Key]placed
		pending   map[kinds.Key]*corev1.Pod
		nominated map[kinds.Key]*corev1.Pod
		budgets   map[kinds.Key]*policyv1.PodDisruptionBudget
		objects   map[kinds.Key]kinds.Object
		services  map[string]map[string]*corev1.Service
		groups    map[string]map[string]int64
		indexes   map[string]int
		images    map[string]map[string]int64
		used      map[kinds.Key]int64
		mounting  map[kinds.Key][]kinds.Key
	}
	out := plain{
		infos: map[string]nodeInfo{}, names: slices.Clone(s.names), placed: map[kinds.Key]placed{}, pending: s.pending,
		objects: s.objects, services: s.services, groups: map[string]map[string]int64{}, indexes: map[string]int{},
		images: map[string]map[string]int64{},
		used:   s.used, mounting: map[kinds.Key][]kinds.Key{},
		there: map[string][]string{}, nominated: s.nominated, budgets: s.budgets,
	}
	if len(out.names) == 0 {
		out.names = nil
	}
	for name, info := range s.infos {
		c := info.clone()
		for _, p := range c.there {
			out.there[name] = append(out.there[name], p.pod.Name)
		}
		slices.Sort(out.there[name])
		c.there = nil
		if len(c.ports) == 0 {
			c.ports = nil
		}
		if len(c.mounts) == 0 {
			c.mounts = nil
		}
		if len(c.requested.scalar) == 0 {
			c.requested.scalar = nil
		}
		if c.node == nil {
			c.at = -1
		}
		out.infos[name] = *c
	}
	for key, p := range s.placed {
		plain := *p
		plain.node, plain.load.group = p.node+" "+p.load.group.key, nil
		out.placed[key] = plain
	}
	for key, g := range s.groups.all {
		out.groups[key] = map[string]int64{}
		for info, count := range g.nodes {
			out.groups[key][info.name] = count
		}
	}
	for namespace, set := range s.groups.spaces {
		out.indexes["in "+namespace] = len(set)
	}
	for owner, set := range s.groups.owners {
		out.indexes["of "+string(owner)] = len(set)
	}
	for claim, pods := range s.mounting {
		out.mounting[claim] = slices.SortedFunc(slices.Values(pods), func(a, b kinds.Key) int { return strings.Compare(a.Name, b.Name) })
	}
	for name, nodes := range s.images {
		out.images[name] = map[string]int64{}
		for info, size := range nodes {
			out.images[name][info.name] = size
		}
	}
	out.indexes["social"], out.indexes["roams"] = len(s.groups.social), len(s.groups.roams)
	for namespace, set := range s.groups.aims {
		out.indexes["at "+namespace] = len(set)
	}
	return out
}

func randomChange(r *rand.Rand, v *view.View) view.Change {
	if r.IntN(20) == 0 {
		return changeOf(v, keeps(one(r, "a", "b"), 1, int32(r.IntN(2))), r.IntN(3) == 0)
	}
	if r.IntN(9) == 0 {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: one(r, "shop", "other"), Name: one(r, "a", "b")}}
		s.Spec.Selector = someLabels(r)
		return changeOf(v, s, r.IntN(3) == 0)
	}
	if r.IntN(6) == 0 {
		return changeOf(v, someVolumeObject(r), r.IntN(3) == 0)
	}
	if r.IntN(3) == 0 {
		name := fmt.Sprintf("n%d", r.IntN(4))
		n := node(name, fmt.Sprintf("cpu=%d memory=8Gi pods=10 example.com/gpu=%d", 1+r.IntN(4), r.IntN(2)), nil)
		if r.IntN(3) == 0 {
			tainted("k", "v", corev1.TaintEffectNoSchedule)(n)
		}
		n.Status.Images = someImages(r)
		return changeOf(v, n, r.IntN(4) == 0)
	}
	p := pod(fmt.Sprintf("p%d", r.IntN(12)), fmt.Sprintf("cpu=%dm example.com/gpu=%d", 100*r.IntN(5), r.IntN(2)),
		owned(fmt.Sprintf("rs%d", r.IntN(2))))
	if r.IntN(2) == 0 {
		p.Spec.NodeName = fmt.Sprintf("n%d", r.IntN(5))
		hostPorted(int32(80+r.IntN(2)), "")(p)
	}
	if r.IntN(5) == 0 {
		p.Status.Phase = corev1.PodFailed
	}
	if p.Spec.NodeName == "" && r.IntN(3) == 0 {
		p.Status.NominatedNodeName = fmt.Sprintf("n%d", r.IntN(5))
	}
	p.Labels = someLabels(r)
	if r.IntN(3) == 0 {
		p.Spec.Affinity = someAffinity(r)
	}
	if r.IntN(3) == 0 {
		someMounts(r)(p)
	}
	if r.IntN(6) == 0 {
		now := metav1.Unix(1, 0)
		p.DeletionTimestamp = &now
	}
	return changeOf(v, p, r.IntN(3) == 0)
}

func changeOf(v *view.View, o kinds.Object, gone bool) view.Change {
	c := view.Change{Key: kinds.KeyOf(o), Old: v.Get(kinds.KeyOf(o)), New: o}
	if gone {
		c.New = nil
	}
	return c
}

// noRoom is what a pod is told that fits beside no other of its priority.
const noRoom = "0/1 nodes are available: 1 Insufficient cpu. " +
	"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

func TestRun(t *testing.T) {
	s := memory.New(node("a", "cpu=1 memory=1Gi pods=10", nil), pod("first", "cpu=800m", nil))
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	first := await(t, s, "first", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	if c := first.Status.Conditions[0]; c.Type != corev1.PodScheduled || c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
		t.Errorf("condition %+v", c)
	}
	awaitEvent(t, s, "Normal Scheduled Successfully assigned shop/first to a")

	second := pod("second", "cpu=800m", nil)
	commit(t, s, store.Write{Key: kinds.KeyOf(second), Object: second})
	refused := await(t, s, "second", func(p *corev1.Pod) bool { return len(p.Status.Conditions) == 1 })
	if c := refused.Status.Conditions[0]; c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" ||
		c.Message != noRoom {
		t.Errorf("condition %+v", c)
	}
	awaitEvent(t, s, "Warning FailedScheduling "+noRoom)

	commit(t, s, store.Write{Key: kinds.KeyOf(first), If: kinds.Revision(first)})
	await(t, s, "second", func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "a" && len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Status == corev1.ConditionTrue
	})
}

func TestRunRetriesConflicts(t *testing.T) {
	refusals := 0
	s := memory.NewWith(memory.Options{Intercept: func(g store.Group) error {
		if p, ok := g[0].Object.(*corev1.Pod); ok && p.Spec.NodeName != "" && refusals < 3 {
			refusals++
			return store.ErrUnavailable
		}
		return nil
	}})
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	for _, o := range []kinds.Object{node("a", big, nil), pod("p", "", nil)} {
		commit(t, s, store.Write{Key: kinds.KeyOf(o), Object: o})
	}
	await(t, s, "p", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
}

// TestRunLeavesOutWhatCannotBeWritten: a pod that is as large as an object may be gets no node, is told so, and is not tried again and
// again with all others.
func TestRunLeavesOutWhatCannotBeWritten(t *testing.T) {
	var tries atomic.Int64
	s := memory.NewWith(memory.Options{Intercept: func(g store.Group) error {
		switch p, ok := g[0].Object.(*corev1.Pod); {
		case !ok || len(p.Status.Conditions) == 0 && p.Spec.NodeName == "":
		case p.Name == "large":
			tries.Add(1)
			return fmt.Errorf("it has 1048580 bytes: %w", store.ErrTooLarge)
		}
		return nil
	}})
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	for _, o := range []kinds.Object{node("a", big, nil), pod("large", "", nil), pod("p", "", nil)} {
		commit(t, s, store.Write{Key: kinds.KeyOf(o), Object: o})
	}
	await(t, s, "p", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	awaitEvent(t, s, `Warning FailedScheduling running Bind plugin "DefaultBinder": it has 1048580 bytes: `+store.ErrTooLarge.Error())
	for i := range 5 { // each wakes the scheduler
		name := fmt.Sprint("more", i)
		o := pod(name, "", nil)
		commit(t, s, store.Write{Key: kinds.KeyOf(o), Object: o})
		await(t, s, name, func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	}
	if n := tries.Load(); n > 2 {
		t.Errorf("tried %d times", n)
	}
}

// run schedules until the test ends.
func run(t *testing.T, s *Scheduler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func commit(t *testing.T, s *memory.Store, w store.Write) {
	t.Helper()
	if r := s.Commit(t.Context(), store.Group{w})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
}

func await(t *testing.T, s *memory.Store, name string, ok func(*corev1.Pod) bool) (p *corev1.Pod) {
	t.Helper()
	eventually.True(t, 20*time.Second, "pod "+name, func() (found bool) {
		p, found = view.Get[*corev1.Pod](s.View(), "shop", name)
		return found && ok(p)
	})
	return p
}

func awaitEvent(t *testing.T, s *memory.Store, want string) {
	t.Helper()
	eventually.Nil(t, 20*time.Second, want, func() error {
		var got []string
		for e := range view.List[*corev1.Event](s.View(), "shop") {
			got = append(got, e.Type+" "+e.Reason+" "+e.Message)
		}
		if !slices.Contains(got, want) {
			return fmt.Errorf("events are %q", got)
		}
		return nil
	})
}
