package reconcilers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeunschedulable"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/tainttoleration"
	"k8s.io/kubernetes/pkg/scheduler/framework/preemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	plugins "k8s.io/kubernetes/pkg/scheduler/testing/framework"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/reconcilers/scheduler"
	"lockstep/store/view"
)

// TestPreemptionIsKubernetes lets kube-scheduler's preemption look for room on behalf of random pods in random clusters, beside
// ours: node, victims and words must be the same.
func TestPreemptionIsKubernetes(t *testing.T) {
	metrics.Register()
	made := map[string]int{}
	for seed := range short.Of(1000) {
		w := newCrowd(rand.New(rand.NewPCG(seed, 37)))
		plan := scheduler.Decide(scheduler.NewState(view.Of(w.objects()...)), []*corev1.Pod{w.asks}, seed)
		want, ok := w.theirs(t)
		if !ok {
			if len(plan.Bindings) != 1 {
				t.Fatalf("seed %d: a node takes the pod in Kubernetes, ours says %s", seed, plan.Refusals[0].Reason)
			}
			made["placed"]++
			continue
		}
		if len(plan.Bindings) > 0 {
			t.Fatalf("seed %d: no node takes the pod in Kubernetes, ours is %s: %+v", seed, plan.Bindings[0].Node, want)
		}
		r := plan.Refusals[0]
		_, why, _ := strings.Cut(r.Reason, " preemption: ")
		got := verdictOf{node: r.Nominated, text: "preemption: " + why}
		for _, p := range r.Evicts {
			got.ended = append(got.ended, p.Name)
		}
		slices.Sort(got.ended)
		if got.node != want.node || !slices.Equal(got.ended, want.ended) || got.text != want.text {
			t.Fatalf("seed %d:\nours       %+v\nKubernetes %+v\n%s", seed, got, want, w)
		}
		switch {
		case len(r.Evicts) > 1:
			made["several end"]++
		case len(r.Evicts) == 1:
			made["one ends"]++
		default:
			made["none ends"]++
		}
	}
	for _, what := range []string{"placed", "several end", "one ends", "none ends"} {
		if made[what] < 5 {
			t.Errorf("the walk shows little: %v", made)
		}
	}
}

type verdictOf struct {
	node  string
	ended []string
	text  string
}

// crowd is a cluster with pods, and one that looks for a node.
type crowd struct {
	fwk.PodNominator
	nodes   []*corev1.Node
	pods    []*corev1.Pod
	budgets []*policyv1.PodDisruptionBudget
	named   []*corev1.Pod // nominated
	asks    *corev1.Pod
}

func newCrowd(r *rand.Rand) *crowd {
	w := &crowd{}
	resources := func(text string, args ...any) corev1.ResourceList {
		list := corev1.ResourceList{}
		for _, part := range strings.Fields(fmt.Sprintf(text, args...)) {
			name, value, _ := strings.Cut(part, "=")
			list[corev1.ResourceName(name)] = resource.MustParse(value)
		}
		return list
	}
	pod := func(name string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name)}}
		p.Labels = map[string]string{"app": fmt.Sprint("a", r.IntN(3))}
		p.Spec.SchedulerName = corev1.DefaultSchedulerName
		p.Spec.Priority = new(int32(r.IntN(4) - 1))
		c := corev1.Container{Name: "c"}
		c.Resources.Requests = resources("cpu=%dm memory=%dMi example.com/gpu=%d", 500*r.IntN(5), 512*r.IntN(4), r.IntN(2))
		if r.IntN(3) == 0 {
			c.Ports = []corev1.ContainerPort{{HostPort: int32(80 + r.IntN(2)), ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
		}
		p.Spec.Containers = []corev1.Container{c}
		return p
	}
	for i := range 1 + r.IntN(5) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}
		n.Status.Allocatable = resources("cpu=%d memory=%dGi pods=%d example.com/gpu=%d", 1+r.IntN(4), 1+r.IntN(4), 2+r.IntN(5), r.IntN(3))
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		n.Spec.Unschedulable = r.IntN(10) == 0
		if r.IntN(8) == 0 {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
		}
		w.nodes = append(w.nodes, n)
	}
	starts := r.Perm(40)
	for i := range 3 + r.IntN(20) {
		p := pod(fmt.Sprint("p", i))
		p.Spec.NodeName = w.nodes[r.IntN(len(w.nodes))].Name
		for _, o := range w.pods { // no two on a node have one port: kube-scheduler could not tell them apart
			ports, others := p.Spec.Containers[0].Ports, o.Spec.Containers[0].Ports
			if o.Spec.NodeName == p.Spec.NodeName && len(ports) > 0 && len(others) > 0 && ports[0].HostPort == others[0].HostPort {
				p.Spec.Containers[0].Ports = nil
			}
		}
		start := metav1.NewTime(time.Unix(int64(starts[i]), 0))
		p.Status.StartTime = &start
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if r.IntN(10) == 0 {
			p.DeletionTimestamp = &start
			if r.IntN(2) == 0 {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
				})
			}
		}
		w.pods = append(w.pods, p)
	}
	for i := range r.IntN(3) {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("a", i)}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": b.Name}}
		healthy := 0
		for _, p := range w.pods {
			if p.DeletionTimestamp == nil && p.Labels["app"] == b.Name {
				healthy++
			}
		}
		b.Status.DisruptionsAllowed = int32(r.IntN(healthy + 1))
		b.Status.DesiredHealthy = int32(healthy) - b.Status.DisruptionsAllowed
		w.budgets = append(w.budgets, b)
	}
	for i := range r.IntN(2) {
		p := pod(fmt.Sprint("named", i))
		p.Status.NominatedNodeName = w.nodes[r.IntN(len(w.nodes))].Name
		w.named = append(w.named, p)
	}
	w.asks = pod("asks")
	w.asks.Spec.Priority = new(int32(r.IntN(5)))
	if r.IntN(3) == 0 {
		w.asks.Status.NominatedNodeName = w.nodes[r.IntN(len(w.nodes))].Name
	}
	if r.IntN(12) == 0 {
		w.asks.Spec.PreemptionPolicy = new(corev1.PreemptNever)
	}
	return w
}

func (w *crowd) objects() (out []kinds.Object) {
	for _, n := range w.nodes {
		out = append(out, n)
	}
	for _, p := range slices.Concat(w.pods, w.named, []*corev1.Pod{w.asks}) {
		out = append(out, p)
	}
	for _, b := range w.budgets {
		out = append(out, b)
	}
	return out
}

// NominatedPodsForNode tells kube-scheduler of the pods that are nominated.
func (w *crowd) NominatedPodsForNode(node string) (out []fwk.PodInfo) {
	for _, p := range append(w.named, w.asks) {
		if p.Status.NominatedNodeName == node {
			info, err := framework.NewPodInfo(p)
			if err != nil {
				panic(err)
			}
			out = append(out, info)
		}
	}
	return out
}

func (w *crowd) String() string {
	var b strings.Builder
	for _, n := range w.nodes {
		fmt.Fprintf(&b, "%s %v taints %d cordoned %v\n", n.Name, n.Status.Allocatable, len(n.Spec.Taints), n.Spec.Unschedulable)
	}
	for _, p := range slices.Concat(w.pods, w.named, []*corev1.Pod{w.asks}) {
		fmt.Fprintf(&b, "%s on %q/%q priority %d start %v ends %v %v %v ports %v\n", p.Name, p.Spec.NodeName, p.Status.NominatedNodeName,
			*p.Spec.Priority, p.Status.StartTime, p.DeletionTimestamp != nil, p.Labels, p.Spec.Containers[0].Resources.Requests,
			p.Spec.Containers[0].Ports)
	}
	for _, d := range w.budgets {
		fmt.Fprintf(&b, "budget %s allows %d\n", d.Name, d.Status.DisruptionsAllowed)
	}
	return b.String()
}

// theirs is what kube-scheduler says of the pod; false: a node takes it.
func (w *crowd) theirs(t *testing.T) (verdictOf, bool) {
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	defer cancel()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	add := func(o any, to interface{ Add(any) error }) {
		if err := to.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range slices.Concat(w.pods, w.named, []*corev1.Pod{w.asks}) {
		add(p, factory.Core().V1().Pods().Informer().GetStore())
	}
	for _, b := range w.budgets {
		add(b, factory.Policy().V1().PodDisruptionBudgets().Informer().GetStore())
	}
	snapshot := cache.NewSnapshot(w.pods, w.nodes)
	features := feature.Features{}
	f, err := plugins.NewFramework(ctx, []plugins.RegisterPluginFunc{
		plugins.RegisterQueueSortPlugin(queuesort.Name, queuesort.New),
		plugins.RegisterPluginAsExtensions(
			nodeunschedulable.Name, runtime.FactoryAdapter(features, nodeunschedulable.New), "Filter"),
		plugins.RegisterPluginAsExtensions(tainttoleration.Name, runtime.FactoryAdapter(features, tainttoleration.New), "Filter"),
		plugins.RegisterPluginAsExtensions(nodeports.Name, runtime.FactoryAdapter(features, nodeports.New), "PreFilter", "Filter"),
		plugins.RegisterPluginAsExtensions(
			noderesources.Name, runtime.FactoryAdapter(features, noderesources.NewFit), "PreFilter", "Filter"),
		plugins.RegisterBindPlugin(defaultbinder.Name, defaultbinder.New),
	}, "", runtime.WithClientSet(client), runtime.WithEventRecorder(&events.FakeRecorder{}), runtime.WithInformerFactory(factory),
		runtime.WithPodNominator(w), runtime.WithSnapshotSharedLister(snapshot), runtime.WithMutableSnapshotLister(snapshot),
		runtime.WithWaitingPods(runtime.NewWaitingPodsMap()), runtime.WithPodsInPreBind(runtime.NewPodsInPreBindMap()),
		runtime.WithLogger(klog.Logger{}))
	if err != nil {
		t.Fatal(err)
	}
	args := &config.DefaultPreemptionArgs{MinCandidateNodesPercentage: 100, MinCandidateNodesAbsolute: 1000}
	pl, err := defaultpreemption.New(ctx, args, f, features)
	if err != nil {
		t.Fatal(err)
	}
	var out verdictOf
	var mu sync.Mutex // victims are ended side by side
	pl.Executor.PreemptPod = func(
		_ context.Context, _ preemption.Candidate, _ preemption.ExecutorPreemptor, victim *corev1.Pod, _ string,
	) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		out.ended = append(out.ended, victim.Name)
		return false, nil
	}

	state := framework.NewCycleState()
	if _, status, _ := f.RunPreFilterPlugins(ctx, state, w.asks); !status.IsSuccess() {
		t.Fatal(status)
	}
	all, err := snapshot.NodeInfos().List()
	if err != nil {
		t.Fatal(err)
	}
	statuses := framework.NewDefaultNodeToStatus()
	for _, n := range all {
		status := f.RunFilterPluginsWithNominatedPods(ctx, state, w.asks, n)
		if status.IsSuccess() {
			return verdictOf{}, false
		}
		statuses.Set(n.Node().Name, status)
	}
	result, status := pl.PostFilter(ctx, state, w.asks, statuses)
	out.node = w.asks.Status.NominatedNodeName
	if result != nil && result.Mode() == fwk.ModeOverride {
		out.node = result.NominatedNodeName
	}
	slices.Sort(out.ended)
	out.text = status.Message()
	return out, true
}
