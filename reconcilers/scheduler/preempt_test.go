package scheduler

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// runs returns a pod that has run on a node since a second.
func runs(name, node, requests string, priority int32, since int64, change ...func(*corev1.Pod)) *corev1.Pod {
	return pod(name, requests, func(p *corev1.Pod) {
		on(node)(p)
		p.Spec.Priority = &priority
		start := metav1.NewTime(time.Unix(since, 0))
		p.Status.StartTime = &start
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		p.Labels = map[string]string{"app": name[:1]}
		for _, f := range change {
			f(p)
		}
	})
}

// asks returns a pod that waits.
func asks(name, requests string, priority int32, change ...func(*corev1.Pod)) *corev1.Pod {
	return pod(name, requests, func(p *corev1.Pod) {
		p.Spec.Priority = &priority
		for _, f := range change {
			f(p)
		}
	})
}

// keeps returns a budget of the pods whose names begin with a letter.
func keeps(letter string, desired, allowed int32) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: letter}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": letter}}
	b.Status.DesiredHealthy, b.Status.DisruptionsAllowed = desired, allowed
	return b
}

// disrupts is a budget in whose status a program has said that a pod ends.
func disrupts(b *policyv1.PodDisruptionBudget, pod string) *policyv1.PodDisruptionBudget {
	b.Status.DisruptedPods = map[string]metav1.Time{pod: metav1.NewTime(time.Unix(100, 0))}
	return b
}

func nominatedOn(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}

// ending is a pod that ends for another.
func ending(p *corev1.Pod) {
	now := metav1.NewTime(time.Unix(100, 0))
	p.DeletionTimestamp = &now
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
	})
}

// said writes a plan: "high → a", "high waits for a, ends low1 low2: preemption: …".
func said(plan Plan) string {
	var lines []string
	for _, b := range plan.Bindings {
		lines = append(lines, b.Pod.Name+" → "+b.Node)
	}
	for _, r := range plan.Refusals {
		line := r.Pod.Name + " waits"
		if r.Nominated != "" {
			line += " for " + r.Nominated
		}
		for i, p := range r.Evicts {
			if i == 0 {
				line += ", ends"
			}
			line += " " + p.Name
		}
		_, why, _ := strings.Cut(r.Reason, " preemption: ")
		lines = append(lines, line+": "+why)
	}
	for _, p := range plan.Released {
		lines = append(lines, p.Name+" loses "+p.Status.NominatedNodeName)
	}
	return strings.Join(lines, "\n")
}

func TestPreempt(t *testing.T) {
	never := func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }
	none := func(n int) string {
		return fmt.Sprintf("0/%d nodes are available: %d No preemption victims found for incoming pod.", n, n)
	}
	found := func(node string, n int) string {
		return fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", node, n)
	}
	a, b := node("a", "cpu=4 memory=8Gi pods=10", nil), node("b", "cpu=4 memory=8Gi pods=10", nil)
	for name, c := range map[string]struct {
		there []kinds.Object
		pods  []*corev1.Pod
		want  string
	}{
		"nobody of lower priority": {[]kinds.Object{a, runs("o", "a", "cpu=4", 10, 1)}, []*corev1.Pod{asks("p", "cpu=1", 10)},
			"p waits: " + none(1)},
		"one": {[]kinds.Object{a, runs("o", "a", "cpu=4", 9, 1)}, []*corev1.Pod{asks("p", "cpu=1", 10)},
			"p waits for a, ends o: " + found("a", 1)},
		"never": {[]kinds.Object{a, runs("o", "a", "cpu=4", 9, 1)}, []*corev1.Pod{asks("p", "cpu=1", 10, never)},
			"p waits: not eligible due to preemptionPolicy=Never."},
		"too large for any": {[]kinds.Object{a, runs("o", "a", "cpu=4", 9, 1)}, []*corev1.Pod{asks("p", "cpu=5", 10)},
			"p waits: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"not enough of lower priority": {[]kinds.Object{a, runs("o", "a", "cpu=2", 9, 1), runs("q", "a", "cpu=2", 10, 1)},
			[]*corev1.Pod{asks("p", "cpu=3", 10)}, "p waits: 0/1 nodes are available: 1 Insufficient cpu."},
		"as few as possible": {[]kinds.Object{
			a, runs("o", "a", "cpu=1", 1, 1), runs("q", "a", "cpu=2", 2, 1), runs("r", "a", "cpu=1", 3, 1)},
			[]*corev1.Pod{asks("p", "cpu=2", 10)}, "p waits for a, ends q: " + found("a", 1)},
		"the younger of equals": {[]kinds.Object{a, runs("o", "a", "cpu=2", 1, 1), runs("q", "a", "cpu=2", 1, 2)},
			[]*corev1.Pod{asks("p", "cpu=2", 10)}, "p waits for a, ends q: " + found("a", 1)},
		"the lowest highest priority": {[]kinds.Object{
			a, b, runs("o", "a", "cpu=4", 5, 1), runs("q", "b", "cpu=2", 4, 1), runs("r", "b", "cpu=2", 4, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for b, ends q r: " + found("b", 2)},
		"the fewest": {[]kinds.Object{
			a, b, runs("o", "a", "cpu=4", 5, 1), runs("q", "b", "cpu=2", 5, 1), runs("r", "b", "cpu=2", -5, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for a, ends o: " + found("a", 1)},
		"who began last": {[]kinds.Object{a, b, runs("o", "a", "cpu=4", 5, 2), runs("q", "b", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for a, ends o: " + found("a", 1)},
		"a host port": {[]kinds.Object{a, runs("o", "a", "cpu=1", 5, 2, hostPorted(80, "")), runs("q", "a", "cpu=1", 5, 2)},
			[]*corev1.Pod{asks("p", "cpu=1", 10, hostPorted(80, ""))}, "p waits for a, ends o: " + found("a", 1)},
		"a budget keeps": {[]kinds.Object{a, b, keeps("o", 1, 0), runs("o", "a", "cpu=4", 1, 1), runs("q", "b", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for b, ends q: " + found("b", 1)},
		"a budget gives": {[]kinds.Object{a, b, keeps("o", 0, 1), runs("o", "a", "cpu=4", 1, 1), runs("q", "b", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for a, ends o: " + found("a", 1)},
		"a budget is broken for want of others": {[]kinds.Object{a, keeps("o", 1, 0), runs("o", "a", "cpu=4", 1, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for a, ends o: " + found("a", 1)},
		"a budget is spent once": {[]kinds.Object{
			a, b, keeps("o", 1, 1), runs("o1", "a", "cpu=4", 1, 1), runs("o2", "b", "cpu=4", 1, 1),
			node("c", "cpu=4 memory=8Gi pods=10", nil), runs("q", "c", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p1", "cpu=4", 10), asks("p2", "cpu=4", 10)},
			"p1 waits for a, ends o1: " + found("a", 1) + "\np2 waits for c, ends q: " + found("c", 1)},
		"a budget whose status is behind": {[]kinds.Object{
			a, b, keeps("o", 1, 1), runs("o1", "a", "cpu=4", 1, 1, ending), runs("o2", "b", "cpu=3", 1, 1), runs("q", "b", "cpu=1", 5, 1),
			node("c", "cpu=4 memory=8Gi pods=10", nil), runs("r", "c", "cpu=4", 6, 1), asks("first", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for c, ends r: " + found("c", 1)},
		"a program's word breaks no budget": {[]kinds.Object{
			a, b, disrupts(keeps("o", 1, 1), "o"), runs("o", "a", "cpu=4", 1, 1), runs("q", "b", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p", "cpu=4", 10)}, "p waits for b, ends q: " + found("b", 1)},
		"the nominated pod comes": {[]kinds.Object{a, asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))}, "p → a"},
		"what is made free is kept": {[]kinds.Object{a, asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("low", "cpu=1", 9)}, "low waits: " + none(1)},
		"equals keep it, too": {[]kinds.Object{a, asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("same", "cpu=1", 10)}, "same waits: " + none(1)},
		"not from those above": {[]kinds.Object{a, asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("high", "cpu=1", 11)}, "high → a"},
		"it waits for the end of others": {[]kinds.Object{
			a, runs("o", "a", "cpu=4", 5, 1, ending), runs("q", "a", "", 5, 1), asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))},
			"p waits for a: not eligible due to a terminating pod on the nominated node."},
		"its node is gone": {[]kinds.Object{b, runs("o", "b", "cpu=4", 5, 1), asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))}, "p waits for b, ends o: " + found("b", 1)},
		"its node takes it no more": {[]kinds.Object{
			node("a", "cpu=4 memory=8Gi pods=10", tainted("k", "v", corev1.TaintEffectNoSchedule)), b,
			runs("o", "a", "cpu=4", 5, 1, ending), runs("q", "b", "cpu=4", 5, 1), asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))}, "p waits for b, ends q: " + found("b", 1)},
		"another node is sooner": {[]kinds.Object{a, b, runs("o", "a", "cpu=4", 5, 1, ending), asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))}, "p → b"},
		"no help any more": {[]kinds.Object{a, runs("o", "a", "cpu=4", 10, 1), asks("p", "cpu=4", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("p", "cpu=4", 10, nominatedOn("a"))}, "p waits: " + none(1)},
		"who is above takes the node": {[]kinds.Object{a, runs("o", "a", "cpu=4", 5, 1, ending), asks("p", "cpu=2", 10, nominatedOn("a"))},
			[]*corev1.Pod{asks("high", "cpu=4", 11)}, "high waits for a: " + found("a", 1) + "\np loses a"},
		"each its own": {[]kinds.Object{a, b, runs("o", "a", "cpu=4", 5, 1), runs("q", "b", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p1", "cpu=3", 10), asks("p2", "cpu=3", 10), asks("p3", "cpu=3", 10)},
			"p1 waits for a, ends o: " + found("a", 1) + "\np2 waits for b, ends q: " + found("b", 1) +
				"\np3 waits: 0/2 nodes are available: 2 Insufficient cpu."},
		"two in the place of one": {[]kinds.Object{a, runs("o", "a", "cpu=4", 5, 1)},
			[]*corev1.Pod{asks("p1", "cpu=2", 10), asks("p2", "cpu=2", 10)},
			"p1 waits for a, ends o: " + found("a", 1) + "\np2 waits for a: " + found("a", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewState(view.Of(c.there...))
			before := NewState(view.Of(c.there...))
			if got := said(Decide(s, c.pods, 1)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if !reflect.DeepEqual(normal(s), normal(before)) {
				t.Error("deciding changed the state")
			}
		})
	}
}

// TestVictimsAreFew: on small clusters, no pod that ends could have stayed, none ends where that does not help, and where some
// set of pods of lower priority on one node would do, one is found.
func TestVictimsAreFew(t *testing.T) {
	ended, helpless := 0, 0
	for seed := range max(500, short.Of(2000)) { // fewer show little
		r := rand.New(rand.NewPCG(seed, 3))
		nodes, pods := []*corev1.Node{}, []*corev1.Pod{}
		var objects []kinds.Object
		for i := range 1 + r.IntN(3) {
			n := randomNode(r, fmt.Sprint("n", i))
			nodes, objects = append(nodes, n), append(objects, n)
		}
		for i := range r.IntN(7) {
			p := runs(fmt.Sprint("p", i), fmt.Sprint("n", r.IntN(len(nodes))),
				fmt.Sprintf("cpu=%dm memory=%dMi", 500*r.IntN(4), 512*r.IntN(3)), int32(r.IntN(4)), int64(r.IntN(4)))
			if r.IntN(3) == 0 {
				hostPorted(int32(80+r.IntN(2)), "")(p)
			}
			pods, objects = append(pods, p), append(objects, p)
		}
		asking := randomPod(r, "asking")
		asking.Spec.Priority = new(int32(r.IntN(5)))
		plan := Decide(NewState(view.Of(objects...)), []*corev1.Pod{asking}, seed)
		fits := func(without []*corev1.Pod, at string) bool {
			var left []kinds.Object
			for _, n := range nodes {
				if n.Name == at {
					left = append(left, n)
				}
			}
			for _, p := range pods {
				if !slices.Contains(without, p) {
					left = append(left, p)
				}
			}
			return len(Decide(NewState(view.Of(left...)), []*corev1.Pod{asking}, 1).Bindings) == 1
		}
		helps := ""
		for _, n := range nodes {
			var lower []*corev1.Pod
			for _, p := range pods {
				if p.Spec.NodeName == n.Name && priority(p) < priority(asking) {
					lower = append(lower, p)
				}
			}
			for set := range 1 << len(lower) {
				var without []*corev1.Pod
				for i, p := range lower {
					if set&(1<<i) != 0 {
						without = append(without, p)
					}
				}
				if len(without) > 0 && fits(without, n.Name) {
					helps = n.Name
				}
			}
		}
		if len(plan.Bindings) > 0 {
			continue
		}
		refusal := plan.Refusals[0]
		if (refusal.Nominated != "") != (helps != "") {
			t.Fatalf("seed %d: %s, and pods could end on %q", seed, said(plan), helps)
		}
		if refusal.Nominated == "" {
			helpless++
			continue
		}
		ended++
		if !fits(refusal.Evicts, refusal.Nominated) {
			t.Fatalf("seed %d: %s, which is not enough", seed, said(plan))
		}
		for i, p := range refusal.Evicts {
			if priority(p) >= priority(asking) || p.Spec.NodeName != refusal.Nominated {
				t.Fatalf("seed %d: %s, not %s", seed, said(plan), p.Name)
			}
			if fits(slices.Delete(slices.Clone(refusal.Evicts), i, i+1), refusal.Nominated) {
				t.Fatalf("seed %d: %s, but %s could have stayed", seed, said(plan), p.Name)
			}
		}
	}
	if ended < 20 || helpless < 20 {
		t.Errorf("pods ended in %d cases, helped nobody in %d: the walk shows little", ended, helpless)
	}
}

// TestPreemption carries a preemption out: the victim ends as a deletion would have it, and says why; the pod waits for its node,
// and comes once that is free.
func TestPreemption(t *testing.T) {
	grace := int64(30)
	victim := runs("victim", "a", "cpu=1", 5, 1, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &grace })
	s := memory.New(node("a", "cpu=1 memory=1Gi pods=10", nil), victim, asks("high", "cpu=1", 10))
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	high := await(t, s, "high", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
	if c := high.Status.Conditions; len(c) != 1 || c[0].Message != "0/1 nodes are available: 1 Insufficient cpu. "+
		"preemption: found a potential placement for pod on node a, preempting 1 victims" {
		t.Errorf("conditions %+v", c)
	}
	p := await(t, s, "victim", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if *p.DeletionGracePeriodSeconds != grace || p.Spec.NodeName != "a" {
		t.Errorf("the victim is %+v", p)
	}
	if c := p.Status.Conditions; len(c) != 2 || c[1].Type != corev1.DisruptionTarget || c[1].Status != corev1.ConditionTrue ||
		c[1].Reason != "PreemptionByScheduler" || c[1].Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("conditions %+v", c)
	}
	awaitEvent(t, s, "Normal Preempted Preempted by pod u-high on node a")
	other := asks("other", "cpu=1", 9)
	commit(t, s, store.Write{Key: kinds.KeyOf(other), Object: other})
	await(t, s, "other", func(p *corev1.Pod) bool { return len(p.Status.Conditions) == 1 })
	commit(t, s, store.Write{Key: kinds.KeyOf(p), If: kinds.Revision(p)})
	high = await(t, s, "high", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" })
	if high.Status.NominatedNodeName != "" {
		t.Error("a pod that has its node is nominated to it still")
	}
}

// TestVictimsWithoutGrace: a pod that has no time to end is gone at once, but that of a Job, which counts it, is ended by its node.
func TestVictimsWithoutGrace(t *testing.T) {
	yes := true
	none := func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(0)) }
	refusal := Refusal{Pod: asks("high", "cpu=1", 10), Nominated: "a", Evicts: []*corev1.Pod{
		runs("own", "a", "cpu=1", 1, 1, none),
		runs("job", "a", "cpu=1", 1, 1, none, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "j", UID: "j", Controller: &yes}}
		}),
	}}
	parts := refusal.writes(metav1.NewTime(time.Unix(100, 0)))
	if len(parts) != 1 || len(parts[0].group) != 3 {
		t.Fatalf("written as %+v", parts)
	}
	if g := parts[0].group; g[0].Object != nil || *g[1].Object.(*corev1.Pod).DeletionGracePeriodSeconds != 1 ||
		g[2].Object.(*corev1.Pod).Status.NominatedNodeName != "a" {
		t.Errorf("written as %+v", g)
	}
	for range 300 {
		refusal.Evicts = append(refusal.Evicts, refusal.Evicts[1])
	}
	parts = refusal.writes(metav1.NewTime(time.Unix(100, 0)))
	count := 0
	for i, part := range parts {
		count += len(part.ended)
		if len(part.group) > store.MaxGroup || (len(part.group) > len(part.ended)) != (i == len(parts)-1) {
			t.Errorf("part %d has %d writes, %d of them ends", i, len(part.group), len(part.ended))
		}
	}
	if count != 302 {
		t.Errorf("%d pods end", count)
	}
}

// BenchmarkPreempt finds the victims for 1,000 pods on 5,000 full nodes.
func BenchmarkPreempt(b *testing.B) {
	var objs []kinds.Object
	for i := range 5000 {
		name := fmt.Sprintf("node-%04d", i)
		objs = append(objs, node(name, "cpu=32 memory=64Gi pods=110", nil))
		for j := range 4 {
			objs = append(objs, runs(fmt.Sprintf("low-%04d-%d", i, j), name, "cpu=8 memory=1Gi", 0, int64(i)))
		}
	}
	s := NewState(view.Of(objs...))
	var pods []*corev1.Pod
	for i := range 1000 {
		pods = append(pods, asks(fmt.Sprintf("high-%04d", i), "cpu=24 memory=1Gi", 10, owned(fmt.Sprint("rs", i%100))))
	}
	for b.Loop() {
		ended := 0
		for _, r := range Decide(s, pods, 1).Refusals {
			ended += len(r.Evicts)
		}
		if ended != 3*len(pods) {
			b.Fatalf("%d pods end", ended)
		}
	}
	b.ReportMetric(float64(len(pods))*float64(b.N)/b.Elapsed().Seconds(), "preemptions/s")
}
