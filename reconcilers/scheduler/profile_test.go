package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
	plugintesting "k8s.io/kubernetes/pkg/scheduler/framework/plugins/testing"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// decideBy decides one pod by a profile.
func decideBy(t *testing.T, profile Profile, p *corev1.Pod, objects ...kinds.Object) Plan {
	t.Helper()
	asks, err := profile.table()
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.SchedulerName = profile.Name
	return Decide(newStateOf(view.Of(objects...), rows(), map[string]*table{profile.Name: asks}), []*corev1.Pod{p}, 1)
}

// TestFailingExpression: of several nodes for which an expression fails the first by name is told, whichever is asked first, so that
// the pod's condition does not change with each round; one that costs too much for all names none.
func TestFailingExpression(t *testing.T) {
	for _, c := range []struct {
		text, want string
		nodes      int
	}{
		{`node.name < "n0007" ? 1 : int(node.labels.rack)`, "node n0007: no such key: rack", 60},
		{`[1,2,3,4,5,6,7,8,9].map(x, [1,2,3,4,5].map(y, x * y + node.pods)).size()`,
			"it costs more than 200000 of CEL's units for all nodes", 2000},
	} {
		var objects []kinds.Object
		for i := range c.nodes {
			objects = append(objects, node(fmt.Sprintf("n%04d", i), big, nil))
		}
		e, err := NewExpression(c.text)
		if err != nil {
			t.Fatal(err)
		}
		asks, err := (&Profile{Name: "named", Expression: e}).table()
		if err != nil {
			t.Fatal(err)
		}
		p := pod("p", "", func(p *corev1.Pod) { p.Spec.SchedulerName = "named" })
		for seed := range uint64(10) {
			s := newStateOf(view.Of(objects...), rows(), map[string]*table{"named": asks})
			plan := Decide(s, []*corev1.Pod{p}, seed)
			want := `running Score plugins: plugin "Expression" failed with: ` + c.want
			if len(plan.Refusals) != 1 || plan.Refusals[0].Reason != want {
				t.Fatalf("seed %d: %+v, want %q", seed, plan, want)
			}
		}
	}
}

// TestFitStrategies: nodes score by each strategy as kube-scheduler's plugin scores them.
func TestFitStrategies(t *testing.T) {
	schedulermetrics.Register()
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	features.EnableDRAExtendedResource = false // no such claims are here
	scored := 0
	for seed := range short.Of(200) {
		r := rand.New(rand.NewPCG(seed, 21))
		fit := Fit{Strategy: one(r, LeastAllocated, MostAllocated, RequestedToCapacityRatio)}
		strategy := &config.ScoringStrategy{Type: config.ScoringStrategyType(fit.Strategy)}
		for _, name := range []corev1.ResourceName{"cpu", "memory", "example.com/gpu", "ephemeral-storage"} {
			if name == "cpu" || r.IntN(2) == 0 {
				weight := 1 + r.Int64N(5)
				fit.Resources = append(fit.Resources, ResourceWeight{name, weight})
				strategy.Resources = append(strategy.Resources, config.ResourceSpec{Name: string(name), Weight: weight})
			}
		}
		if fit.Strategy == RequestedToCapacityRatio {
			strategy.RequestedToCapacityRatio = &config.RequestedToCapacityRatioParam{}
			for use := int64(0); use <= 100; use += 1 + r.Int64N(70) {
				score := r.Int64N(11)
				fit.Shape = append(fit.Shape, ShapePoint{use, score})
				strategy.RequestedToCapacityRatio.Shape = append(strategy.RequestedToCapacityRatio.Shape,
					config.UtilizationShapePoint{Utilization: int32(use), Score: int32(score)})
			}
		}
		nodes := []*corev1.Node{}
		var objects []kinds.Object
		for i := range 4 {
			n := node(fmt.Sprint("n", i), fmt.Sprintf("cpu=%d memory=%dGi pods=10 example.com/gpu=%d ephemeral-storage=%dGi", 1+r.IntN(8),
				1+r.IntN(8), r.IntN(4), r.IntN(9)), nil)
			nodes, objects = append(nodes, n), append(objects, n)
		}
		var placed []*corev1.Pod
		for i := range r.IntN(8) {
			p := randomPod(r, fmt.Sprint("p", i))
			on(one(r, nodes...).Name)(p)
			placed, objects = append(placed, p), append(objects, p)
		}
		incoming := pod("incoming", fmt.Sprintf("cpu=%dm memory=%dMi example.com/gpu=%d ephemeral-storage=%dGi",
			100*r.IntN(9), 100*r.IntN(9),
			r.IntN(2), r.IntN(3)), nil)

		snapshot := cache.NewSnapshot(placed, nodes)
		plugin := plugintesting.SetupPluginWithInformers(t.Context(), t, frameworkruntime.FactoryAdapter(features, noderesources.NewFit),
			&config.NodeResourcesFitArgs{ScoringStrategy: strategy}, snapshot, nil)
		row, err := fit.score()
		if err != nil {
			t.Fatal(err)
		}
		round := newRound(NewState(view.Of(objects...)), 1)
		d := demandOf(t, round, incoming)
		var infos []fwk.NodeInfo
		for _, n := range nodes {
			info, err := snapshot.NodeInfos().Get(n.Name)
			if err != nil {
				t.Fatal(err)
			}
			infos = append(infos, info)
		}
		state := framework.NewCycleState()
		plugin.(fwk.PreScorePlugin).PreScore(t.Context(), state, incoming, infos)
		for i, n := range round.nodes {
			want, _ := plugin.(fwk.ScorePlugin).Score(t.Context(), state, incoming, infos[i])
			if got := row.of(d, n, &round.cluster); got != want {
				t.Fatalf("seed %d: %+v scores %s %d, kube-scheduler %d", seed, fit, n.name, got, want)
			}
			if want > 0 {
				scored++
			}
		}
	}
	if scored == 0 {
		t.Error("no node was scored")
	}
}

func TestProfiles(t *testing.T) {
	a, b := node("a", big, zone("x")), node("b", big, zone("y"))
	full := pod("o", "cpu=3 memory=6Gi", on("a"))
	expression := func(text string) *Expression {
		t.Helper()
		e, err := NewExpression(text)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	added := func(required bool, z string) *corev1.NodeAffinity {
		p := pod("", "", zoneAffinity(required, z))
		return p.Spec.Affinity.NodeAffinity
	}
	for name, c := range map[string]struct {
		profile Profile
		want    string // the node, or the refusal
	}{
		"as by default":    {Profile{}, "b"},
		"most allocated":   {Profile{Fit: Fit{Strategy: MostAllocated}, Weights: map[string]int64{"NodeResourcesFit": 50}}, "a"},
		"added, required":  {Profile{AddedAffinity: added(true, "x")}, "a"},
		"added, preferred": {Profile{AddedAffinity: added(false, "x"), Weights: map[string]int64{"NodeAffinity": 50}}, "a"},
		"added, nowhere": {Profile{AddedAffinity: added(true, "z")},
			"0/2 nodes are available: 2 node(s) didn't match scheduler-enforced node affinity. preemption: 0/2 nodes are available: " +
				"2 Preemption is not helpful for scheduling."},
		"expression": {Profile{
			Expression: expression(`node.labels.zone == "x" ? 100 : 0`), Weights: map[string]int64{"Expression": 50}}, "a"},
		"of the pod": {Profile{
			Expression: expression(`"zone" in pod.labels && pod.labels.zone == node.labels.zone ? 100.0 : double(pod.priority)`),
			Weights:    map[string]int64{"Expression": 50}}, "a"},
		"of what is used": {Profile{Expression: expression(`node.requested.cpu * 100 / node.allocatable.cpu`),
			Weights: map[string]int64{"Expression": 50}}, "a"},
		"not weighed": {Profile{
			Expression: expression(`node.labels.zone == "x" ? 100 : 0`), Weights: map[string]int64{"Expression": 0}}, "b"},
		"that fails": {Profile{Expression: expression(`int(node.labels.rack)`)},
			`running Score plugins: plugin "Expression" failed with: node a: no such key: rack`},
		"that runs long": {Profile{Expression: expression(`[1,2,3,4,5,6,7,8,9].map(x, [1,2,3,4,5,6,7,8,9].map(y, ` +
			`[1,2,3,4,5,6,7,8,9].map(z, x*y*z))).size() + int(pod.priority)`)},
			`running Score plugins: plugin "Expression" failed with: node a: it costs more than 1000 of CEL's units for a node`},
	} {
		c.profile.Name = "named"
		p := pod("p", "cpu=100m", func(p *corev1.Pod) { p.Labels = map[string]string{"zone": "x"} })
		plan := decideBy(t, c.profile, p, a, b, full)
		got := ""
		for _, one := range plan.Bindings {
			got = one.Node
		}
		for _, one := range plan.Refusals {
			got = one.Reason
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestWrongProfiles(t *testing.T) {
	for text, want := range map[string]string{
		"node.labels.": "Syntax error", `"text"`: "it yields string, want a number", "nodes": "undeclared reference to 'nodes'",
		`node.lables["a"] == "b" ? 1 : 0`: "there are node.allocatable, node.labels, ", `node.labels.a > 3 ? 1 : 0`: "no matching overload",
		`node.name`: "it yields string, want a number",
		strings.Repeat(" ", longestExpression) + "1": "longer than",
	} {
		if _, err := NewExpression(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q fails with %v, want %q", text, err, want)
		}
	}
	for want, p := range map[string]Profile{
		`cannot score nodes by strategy "Best"`:   {Fit: Fit{Strategy: "Best"}},
		"it has no shape":                         {Fit: Fit{Strategy: RequestedToCapacityRatio}},
		"cannot use point 1 of the shape":         {Fit: Fit{Strategy: RequestedToCapacityRatio, Shape: []ShapePoint{{50, 1}, {50, 2}}}},
		`cannot score resource "cpu" by weight 0`: {Fit: Fit{Resources: []ResourceWeight{{"cpu", 0}}}},
		"cannot weigh Beauty by 1":                {Weights: map[string]int64{"Beauty": 1}},
		"cannot weigh ImageLocality by 101":       {Weights: map[string]int64{"ImageLocality": 101}},
		"cannot use addedAffinity: ":              wrongAffinity(),
	} {
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v fails with %v, want %q", p, err, want)
		}
	}
}

func wrongAffinity() Profile {
	near := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: "Near"}},
	}}}
	return Profile{AddedAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near}}
}

// TestDefaultSpread: a profile's own defaults hold pods of a controller apart, and leave out nodes without the label.
func TestDefaultSpread(t *testing.T) {
	list := []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}}
	a, b := node("a", big, zone("x")), node("b", big, nil)
	there := pod("o", "", func(p *corev1.Pod) { on("a")(p); owned("rs")(p) })
	plan := decideBy(t, Profile{Name: "spread", Spread: &list}, pod("p", "", owned("rs")), a, b, there, node("c", big, zone("y")))
	if len(plan.Bindings) != 1 || plan.Bindings[0].Node != "c" {
		t.Errorf("%+v, want c", plan)
	}
	plan = decideBy(t, Profile{Name: "spread", Spread: &list}, pod("p", "", owned("rs")), a, b, there, node("c", "cpu=0 pods=0", zone("y")))
	want := "0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints, " +
		"1 node(s) didn't match pod topology spread constraints (missing required label)."
	if len(plan.Refusals) != 1 || !strings.HasPrefix(plan.Refusals[0].Reason, want) {
		t.Errorf("%+v, want %q", plan, want)
	}
}

// TestRunProfiles: pods are placed by the profile that they name, which signs what is told of them; one that nobody declared, and one
// whose expression fails, say so, and others go on.
func TestRunProfiles(t *testing.T) {
	fails, err := NewExpression(`int(node.labels.rack)`)
	if err != nil {
		t.Fatal(err)
	}
	by := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.SchedulerName = name } }
	s := memory.New(node("a", big, nil), node("b", big, nil), pod("o", "cpu=3 memory=6Gi", on("a")),
		pod("packed", "cpu=100m", by("packing")), pod("failing", "", by("failing")), pod("stray", "", by("absent")),
		pod("plain", "cpu=100m", nil))
	run(t, New(Options{Store: s, Commit: s, Events: s, Profiles: []Profile{
		{Name: "packing", Fit: Fit{Strategy: MostAllocated}, Weights: map[string]int64{"NodeResourcesFit": 50}},
		{Name: "failing", Expression: fails},
	}}))
	await(t, s, "packed", func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "a" && strings.HasPrefix(p.Annotations[kinds.AnnotationScores], "a ")
	})
	await(t, s, "plain", func(p *corev1.Pod) bool { return p.Spec.NodeName == "b" })
	awaitEvent(t, s, `Warning FailedScheduling no scheduler profile "absent" is declared`)
	await(t, s, "failing", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) == 1 && strings.Contains(p.Status.Conditions[0].Message, `plugin "Expression" failed with`)
	})
	signed := false
	for deadline := time.Now().Add(20 * time.Second); !signed && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for e := range view.List[*corev1.Event](s.View(), "shop") {
			signed = signed || e.Reason == "Scheduled" && e.InvolvedObject.Name == "packed" && e.Source.Component == "packing"
		}
	}
	if !signed {
		t.Error("the profile does not sign its events")
	}
}
