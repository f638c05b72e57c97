package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/imagelocality"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread"
	plugintesting "k8s.io/kubernetes/pkg/scheduler/framework/plugins/testing"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store/view"
)

// world is a small cluster and a pod that wants a node of it.
type world struct {
	nodes  []*corev1.Node
	placed []*corev1.Pod
	others []kinds.Object // namespaces, services
	extra  []runtime.Object
	pod    *corev1.Pod
}

func (w *world) objects() []kinds.Object {
	var out []kinds.Object
	for _, n := range w.nodes {
		out = append(out, n)
	}
	for _, p := range w.placed {
		out = append(out, p)
	}
	return append(out, w.others...)
}

func one[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func someLabels(r *rand.Rand) map[string]string {
	out := map[string]string{"app": one(r, "a", "b")}
	if r.IntN(2) == 0 {
		out["tier"] = one(r, "x", "y")
	}
	return out
}

func someSelector(r *rand.Rand) *metav1.LabelSelector {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
			Key: "tier", Operator: one(r, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist),
		}}}
	case 3:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
			Key: "app", Operator: one(r, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"a", "c"},
		}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": one(r, "a", "b")}}
}

func someTerm(r *rand.Rand) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: someSelector(r), TopologyKey: one(r, "kubernetes.io/hostname", "zone", "zone", "rack")}
	switch r.IntN(6) {
	case 0:
		t.Namespaces = []string{one(r, "shop", "other")}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": one(r, "a", "b")}}
	case 2:
		t.NamespaceSelector = &metav1.LabelSelector{}
	}
	return t
}

func several[T any](r *rand.Rand, make func() T) (out []T) {
	for range r.IntN(3) {
		out = append(out, make())
	}
	return out
}

func someAffinity(r *rand.Rand) *corev1.Affinity {
	out := &corev1.Affinity{}
	term := func() corev1.PodAffinityTerm { return someTerm(r) }
	weighted := func() corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: 1 + r.Int32N(100), PodAffinityTerm: someTerm(r)}
	}
	if r.IntN(2) == 0 {
		out.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: several(r, weighted)}
		if r.IntN(2) == 0 {
			out.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = several(r, term)
		}
	}
	if r.IntN(2) == 0 {
		out.PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: several(r, weighted)}
		if r.IntN(2) == 0 {
			out.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = several(r, term)
		}
	}
	return out
}

func someConstraint(r *rand.Rand) corev1.TopologySpreadConstraint {
	policy := func() *corev1.NodeInclusionPolicy {
		return one(r, nil, new(corev1.NodeInclusionPolicyHonor), new(corev1.NodeInclusionPolicyIgnore))
	}
	out := corev1.TopologySpreadConstraint{
		MaxSkew: 1 + r.Int32N(2), TopologyKey: one(r, "kubernetes.io/hostname", "zone", "zone", "rack"),
		WhenUnsatisfiable: one(r, corev1.DoNotSchedule, corev1.ScheduleAnyway), LabelSelector: someSelector(r),
		NodeAffinityPolicy: policy(), NodeTaintsPolicy: policy(),
	}
	if out.WhenUnsatisfiable == corev1.DoNotSchedule && r.IntN(3) == 0 {
		out.MinDomains = new(1 + r.Int32N(4))
	}
	if r.IntN(4) == 0 {
		out.MatchLabelKeys = []string{one(r, "tier", "absent")}
	}
	return out
}

func someImages(r *rand.Rand) (out []corev1.ContainerImage) {
	for _, name := range []string{"web", "example.org:80/db"} {
		if r.IntN(2) == 0 {
			out = append(out, corev1.ContainerImage{Names: []string{name + ":latest", name + "@sha256:0"}, SizeBytes: r.Int64N(2 << 30)})
		}
	}
	return out
}

func someWorld(r *rand.Rand) *world {
	w := &world{others: []kinds.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "a"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "b"}}},
	}}
	for i := range 1 + r.IntN(6) {
		w.nodes = append(w.nodes, node(fmt.Sprint("n", i), big, func(n *corev1.Node) {
			if r.IntN(8) > 0 {
				n.Labels["zone"] = fmt.Sprint("z", r.IntN(3))
				n.Labels[corev1.LabelTopologyZone] = n.Labels["zone"]
			}
			if r.IntN(3) > 0 {
				n.Labels["rack"] = fmt.Sprint("r", i)
			}
			n.Status.Images = someImages(r)
			if r.IntN(4) == 0 {
				tainted("k", "v", one(r, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule))(n)
			}
		}))
	}
	some := func(name string) *corev1.Pod {
		return pod(name, "cpu=100m", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = one(r, "web", "example.org:80/db", "absent:v1")
			p.Namespace, p.Labels = one(r, "shop", "shop", "other"), someLabels(r)
			if r.IntN(2) == 0 {
				p.Spec.Affinity = someAffinity(r)
			}
			if r.IntN(4) == 0 {
				owned("rs")(p)
			}
		})
	}
	for i := range r.IntN(10) {
		p := some(fmt.Sprint("p", i))
		p.Spec.NodeName = one(r, w.nodes...).Name
		if r.IntN(6) == 0 {
			now := metav1.Now()
			p.DeletionTimestamp, p.Finalizers = &now, []string{"example.com/held"}
		}
		w.placed = append(w.placed, p)
	}
	w.pod = some("incoming")
	if r.IntN(2) == 0 {
		for range 1 + r.IntN(2) {
			w.pod.Spec.TopologySpreadConstraints = append(w.pod.Spec.TopologySpreadConstraints, someConstraint(r))
		}
	}
	if r.IntN(4) == 0 {
		w.pod.Spec.NodeSelector = map[string]string{"zone": "z1"}
	}
	if r.IntN(4) == 0 {
		w.pod.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	}
	if r.IntN(3) == 0 {
		w.others = append(w.others, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}})
	}
	return w
}

// TestStepByStep: what a round decides of its pods one after another is what it would decide of each in the cluster as it is by
// then, with the same score or in the same words, so that what it counts on the way is what a new count would find.
func TestStepByStep(t *testing.T) {
	bound, refused := 0, 0
	for seed := range short.Of(300) {
		r := rand.New(rand.NewPCG(seed, 9))
		w := someWorld(r)
		for _, n := range w.nodes {
			n.Spec.Taints = nil // what a round ranks nodes by once, it keeps
		}
		models := []*corev1.Pod{w.pod, someWorld(r).pod, someWorld(r).pod}
		var pods []*corev1.Pod
		for i := range 9 {
			p := one(r, models...).DeepCopy()
			p.Name, p.UID = fmt.Sprint("i", i), types.UID(fmt.Sprint("u-i", i))
			pods = append(pods, p)
		}
		plan := Decide(NewState(view.Of(w.objects()...)), pods, seed)
		type verdict struct{ node, reason, score string }
		verdicts := func(plan Plan) map[string]verdict {
			out := map[string]verdict{}
			for _, b := range plan.Bindings {
				_, score, _ := strings.Cut(b.Reason, "score ")
				out[b.Pod.Name] = verdict{node: b.Node, score: score}
			}
			for _, r := range plan.Refusals {
				out[r.Pod.Name] = verdict{reason: r.Reason}
			}
			return out
		}
		got := verdicts(plan)
		for _, p := range pods {
			want := verdicts(Decide(NewState(view.Of(w.objects()...)), []*corev1.Pod{p}, seed))[p.Name]
			have := got[p.Name]
			if have.score != want.score || have.reason != want.reason {
				t.Fatalf("seed %d: %s is %+v, decided alone %+v", seed, p.Name, have, want)
			}
			if have.node == "" {
				refused++
				continue
			}
			bound++
			p = p.DeepCopy()
			p.Spec.NodeName = have.node
			w.placed = append(w.placed, p)
		}
	}
	if bound == 0 || refused == 0 {
		t.Errorf("%d pods were bound, %d refused: the worlds show nothing", bound, refused)
	}
}

// judged is what rows say of each node: empty where it can take the pod, and its score.
type judged struct {
	reasons []string
	scores  []int64
}

// judge asks our rows of one name, of all nodes at once.
func (w *world) judge(t *testing.T, name string) judged {
	t.Helper()
	round := newRound(NewState(view.Of(w.objects()...)), 1)
	d := demandOf(t, round, w.pod)
	out := judged{reasons: make([]string, len(round.nodes)), scores: make([]int64, len(round.nodes))}
	for _, row := range round.state.table.predicates {
		for i, n := range round.nodes {
			if row.name == name && (row.concerns == nil || row.concerns(d)) && !row.check(d, n, &round.cluster) {
				out.reasons[i] = row.words(d, n, &round.cluster)[0]
			}
		}
	}
	var spots []spot
	for _, n := range round.nodes {
		spots = append(spots, spot{node: n, nodes: 1})
	}
	for _, row := range round.state.table.scores {
		if row.name != name || !row.concerns(d) {
			continue
		}
		if row.rank != nil {
			row.rank(d, spots, out.scores)
			continue
		}
		for i, n := range round.nodes {
			out.scores[i] = row.of(d, n, &round.cluster)
		}
	}
	return out
}

func demandOf(t *testing.T, round *round, p *corev1.Pod) *demand {
	t.Helper()
	l := loadOf(p)
	var err error
	if l.group, err = round.group(string(appendGroup(nil, p)), p); err != nil {
		t.Fatal(err)
	}
	d, err := newDemand(p, l)
	if err == nil {
		err = d.survey(&round.cluster)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// oracle asks a plugin of kube-scheduler.
func (w *world) oracle(t *testing.T, factory frameworkruntime.PluginFactory, args runtime.Object) judged {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	objects := append([]runtime.Object{}, w.extra...)
	for _, o := range w.others {
		objects = append(objects, o)
	}
	snapshot := cache.NewSnapshot(w.placed, w.nodes)
	plugin := plugintesting.SetupPluginWithInformers(ctx, t, factory, args, snapshot, objects)
	var infos []fwk.NodeInfo
	for _, n := range w.nodes {
		info, err := snapshot.NodeInfos().Get(n.Name)
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	out := judged{reasons: make([]string, len(infos)), scores: make([]int64, len(infos))}
	state := framework.NewCycleState()
	if filter, filters := plugin.(fwk.FilterPlugin); filters {
		if _, status := plugin.(fwk.PreFilterPlugin).PreFilter(ctx, state, w.pod, infos); !status.IsSkip() {
			for i, info := range infos {
				out.reasons[i] = filter.Filter(ctx, state, w.pod, info).Message()
			}
		}
		if status := plugin.(fwk.PreScorePlugin).PreScore(ctx, state, w.pod, infos); status.IsSkip() {
			return out
		}
	}
	scorer := plugin.(fwk.ScorePlugin)
	list := fwk.NodeScoreList{}
	for _, info := range infos {
		score, status := scorer.Score(ctx, state, w.pod, info)
		if !status.IsSuccess() {
			t.Fatal(status.Message())
		}
		list = append(list, fwk.NodeScore{Name: info.Node().Name, Score: score})
	}
	if extensions := scorer.ScoreExtensions(); extensions != nil {
		if status := extensions.NormalizeScore(ctx, state, w.pod, list); !status.IsSuccess() {
			t.Fatal(status.Message())
		}
	}
	for i := range list {
		out.scores[i] = list[i].Score
	}
	return out
}

// TestOracles: affinity and spreading say of every node what kube-scheduler's plugins say, in the same words, and score alike.
func TestOracles(t *testing.T) {
	schedulermetrics.Register() // plugins count by them
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	replicaSet := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "rs"}}
	refused, scored := map[string]int{}, 0
	for seed := range short.Of(300) {
		w := someWorld(rand.New(rand.NewPCG(seed, 7)))
		if seed%3 == 0 { // the default spread goes by the controller's selector there, by the controller here
			replicaSet.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": "rs"}}
			for _, p := range append(w.placed, w.pod) {
				delete(p.Labels, "of")
				if p.Namespace == "shop" && len(p.OwnerReferences) > 0 {
					p.OwnerReferences[0].APIVersion, p.Labels["of"] = "apps/v1", "rs"
				} else {
					p.OwnerReferences = nil
				}
			}
			w.extra = append(w.extra, replicaSet)
		} else {
			for _, p := range append(w.placed, w.pod) {
				p.OwnerReferences = nil
			}
		}
		for name, want := range map[string]judged{
			"InterPodAffinity": w.oracle(t, frameworkruntime.FactoryAdapter(features, interpodaffinity.New),
				&config.InterPodAffinityArgs{HardPodAffinityWeight: 1}),
			"ImageLocality": w.oracle(t, imagelocality.New, nil),
			"PodTopologySpread": w.oracle(t, frameworkruntime.FactoryAdapter(features, podtopologyspread.New),
				&config.PodTopologySpreadArgs{DefaultingType: config.SystemDefaulting}),
		} {
			got := w.judge(t, name)
			for i := range w.nodes {
				if got.reasons[i] != want.reasons[i] || got.scores[i] != want.scores[i] {
					t.Fatalf("seed %d: %s says of %s %q %d, kube-scheduler %q %d", seed, name, w.nodes[i].Name,
						got.reasons[i], got.scores[i], want.reasons[i], want.scores[i])
				}
				refused[want.reasons[i]]++
				if want.scores[i] > 0 {
					scored++
				}
			}
		}
	}
	for _, reason := range []string{skewed, unlabeled, "node(s) didn't match pod affinity rules",
		"node(s) didn't match pod anti-affinity rules", "node(s) didn't satisfy existing pods anti-affinity rules"} {
		if refused[reason] == 0 {
			t.Errorf("no world has a node with %q", reason)
		}
	}
	if scored == 0 {
		t.Error("no node was scored")
	}
}
