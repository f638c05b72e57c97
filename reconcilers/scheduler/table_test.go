package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// TestRows states the table: which rows there are, in which order, what changes their answers, and what wakes.
func TestRows(t *testing.T) {
	changes := []string{"PodWaits", "PodGone", "PodPlaced", "PodRegrouped", "NodeListed",
		"NodeUnschedulable", "NodeTaints", "NodeLabels", "NodeAllocatable",
		"ClaimChanged", "VolumeChanged", "ClassChanged", "ObjectChanged"}
	scopes := map[scope]string{still: "still", itself: "itself", across: "across"}
	var got strings.Builder
	for _, row := range rows().predicates {
		fmt.Fprintf(&got, "refuse %s, %s", row.name, scopes[row.scope])
		if row.ends != nil {
			got.WriteString(", victims may help")
		}
		got.WriteString(":")
		for i, name := range changes {
			if row.wakes&(1<<i) != 0 {
				got.WriteString(" " + name)
			}
		}
		got.WriteString("\n")
	}
	for _, row := range rows().scores {
		fmt.Fprintf(&got, "prefer %s, %s, weight %d\n", row.name, scopes[row.scope], row.weight)
	}
	const want = `refuse NodeUnschedulable, still: NodeUnschedulable
refuse TaintToleration, still: NodeTaints
refuse NodeAffinity, still: NodeLabels
refuse NodePorts, itself, victims may help: PodGone
refuse NodeResourcesFit, itself, victims may help: PodGone NodeAllocatable
refuse VolumeRestrictions, across, victims may help: PodGone
refuse NodeVolumeLimits, itself, victims may help: PodGone ClaimChanged VolumeChanged ClassChanged ObjectChanged
refuse VolumeBinding, itself: NodeLabels VolumeChanged ClassChanged ObjectChanged
refuse VolumeZone, still: NodeLabels VolumeChanged
refuse PodTopologySpread, across, victims may help: PodGone PodPlaced PodRegrouped NodeTaints NodeLabels
refuse InterPodAffinity, across, victims may help: PodGone PodPlaced PodRegrouped NodeLabels ObjectChanged
prefer TaintToleration, still, weight 3
prefer NodeAffinity, still, weight 2
prefer NodeResourcesFit, itself, weight 1
prefer NodeResourcesBalancedAllocation, itself, weight 1
prefer VolumeBinding, itself, weight 1
prefer PodTopologySpread, across, weight 2
prefer InterPodAffinity, across, weight 2
prefer ImageLocality, still, weight 1
`
	if got.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", got.String(), want)
	}
}

// randomPod asks for something of everything that rows know.
func randomPod(r *rand.Rand, name string) *corev1.Pod {
	p := pod(name, fmt.Sprintf("cpu=%dm memory=%dMi example.com/gpu=%d", 500*r.IntN(5), 512*r.IntN(5), r.IntN(2)), nil)
	some := func(change func(*corev1.Pod)) {
		if r.IntN(3) == 0 {
			change(p)
		}
	}
	some(owned(fmt.Sprint("rs", r.IntN(2))))
	some(hostPorted(int32(80+r.IntN(2)), []string{"", "10.0.0.1"}[r.IntN(2)]))
	some(zoneAffinity(r.IntN(2) == 0, fmt.Sprint("z", r.IntN(2))))
	p.Labels = someLabels(r)
	some(func(p *corev1.Pod) {
		others := someAffinity(r)
		if p.Spec.Affinity != nil {
			others.NodeAffinity = p.Spec.Affinity.NodeAffinity
		}
		p.Spec.Affinity = others
	})
	some(func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{someConstraint(r)}
	})
	some(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": fmt.Sprint("z", r.IntN(2))} })
	some(func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{
			Key:      []string{"k", corev1.TaintNodeUnschedulable}[r.IntN(2)],
			Operator: corev1.TolerationOpExists,
		}}
	})
	return p
}

// someMounts has a pod mount one or two of a few claims.
func someMounts(r *rand.Rand) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for i := range 1 + r.IntN(2) {
			v := corev1.Volume{Name: fmt.Sprint("v", i)}
			if r.IntN(6) == 0 {
				v.Ephemeral = &corev1.EphemeralVolumeSource{}
			} else {
				// No two are of one claim: kube-scheduler looks for a volume for each of them.
				v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c", 2*r.IntN(2)+i)}
			}
			p.Spec.Volumes = append(p.Spec.Volumes, v)
		}
	}
}

func randomNode(r *rand.Rand, name string) *corev1.Node {
	effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}
	size := fmt.Sprintf("cpu=%d memory=%dGi pods=%d example.com/gpu=%d", r.IntN(3), r.IntN(3), r.IntN(4), r.IntN(2))
	return node(name, size, func(n *corev1.Node) {
		n.Labels["zone"] = fmt.Sprint("z", r.IntN(3))
		n.Spec.Unschedulable = r.IntN(5) == 0
		if r.IntN(4) == 0 {
			tainted("k", "v", effects[r.IntN(2)])(n)
		}
	})
}

// TestRowsReadWhatTheySay: a row says the same of a pod as of one that has nothing but its load and what the row reads, for
// pods that are alike in that are one class.
func TestRowsReadWhatTheySay(t *testing.T) {
	table := rows()
	for seed := range short.Of(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := randomPod(r, "p")
		objects := []kinds.Object{randomNode(r, "a")}
		if r.IntN(3) == 0 {
			someMounts(r)(p)
			objects = append(objects, someVolumeObjects(r, 40)...)
		}
		s := NewState(view.Of(append(objects,
			pod("o", "cpu=500m", func(p *corev1.Pod) { on("a")(p); hostPorted(80, "")(p); owned("rs0")(p) }))...))
		round := newRound(s, 1)
		l := loadOf(p)
		var err error
		if l.group, err = round.group(string(appendGroup(nil, p)), p); err != nil {
			t.Fatal(err)
		}
		shut := 0
		demanded := func(p *corev1.Pod) *demand {
			d, err := newDemand(p, l)
			if err == nil {
				err = d.survey(&round.cluster)
			}
			var b *bar
			if errors.As(err, &b) {
				shut++
			} else if err != nil {
				t.Fatal(err)
			}
			return d
		}
		full := demanded(p)
		if shut > 0 {
			if demanded(&corev1.Pod{}); shut != 2 {
				t.Errorf("seed %d: what bars a pod is read from more than its load", seed)
			}
			continue
		}
		bareOf := func(reads func(of, into *corev1.Pod)) *demand {
			into := &corev1.Pod{}
			if reads != nil {
				reads(p, into)
			}
			return demanded(into)
		}
		c := &round.cluster
		for _, row := range table.predicates {
			bare := bareOf(row.reads)
			if row.check(full, c.nodes[0], c) != row.check(bare, c.nodes[0], c) {
				t.Errorf("seed %d: %s reads more than it says", seed, row.name)
			}
			if row.concerns != nil && !row.concerns(full) && !row.check(full, c.nodes[0], c) {
				t.Errorf("seed %d: %s refuses a pod that it does not concern", seed, row.name)
			}
			if !row.check(full, c.nodes[0], c) && len(row.words(full, c.nodes[0], c)) == 0 {
				t.Errorf("seed %d: %s has no words", seed, row.name)
			}
		}
		scoreOf := func(row score, d *demand) int64 {
			if row.rank == nil {
				return row.of(d, c.nodes[0], c)
			}
			var out [1]int64
			row.rank(d, []spot{{node: c.nodes[0], nodes: 1}}, out[:])
			return out[0]
		}
		for _, row := range table.scores {
			if row.concerns != nil && !row.concerns(full) {
				continue
			}
			if scoreOf(row, full) != scoreOf(row, bareOf(row.reads)) {
				t.Errorf("seed %d: the score %s reads more than it says", seed, row.name)
			}
		}
	}
}

// TestNobodyIsForgotten walks random changes: a pod that was refused and has not been woken would be refused again, and
// where only nodes changed, in the same words.
func TestNobodyIsForgotten(t *testing.T) {
	woken, slept := 0, 0
	for seed := range short.Of(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		db := view.NewDB()
		s := New(Options{Events: memory.New()})
		s.state = NewState(db.View())
		placeable := map[*corev1.Pod]bool{} // since their last decision; nobody binds them
		for step := range 150 {
			var c view.Change
			if r.IntN(3) == 0 {
				c = changeOf(db.View(), someVolumeObject(r), r.IntN(6) == 0)
			} else if r.IntN(2) == 0 {
				c = changeOf(db.View(), randomNode(r, fmt.Sprint("n", r.IntN(3))), r.IntN(6) == 0)
			} else {
				p := randomPod(r, fmt.Sprint("p", r.IntN(9)))
				if r.IntN(3) == 0 {
					someMounts(r)(p)
				}
				if r.IntN(2) == 0 {
					p.Spec.NodeName = fmt.Sprint("n", r.IntN(3))
				}
				c = changeOf(db.View(), p, r.IntN(4) == 0)
			}
			if c.Old == nil && c.New == nil {
				continue
			}
			db.Apply(int64(step+1), []view.Change{c})
			s.fold(store.Batch{View: db.View(), Changes: []view.Change{c}})
			due := map[types.UID]bool{}
			pods := s.queue.due(s.state, time.Unix(int64(step), 0))
			for _, p := range pods {
				due[p.UID] = true
			}
			for _, p := range s.state.Pending(func(kinds.Key) bool { return true }) {
				_, retries := s.queue.retries[kinds.KeyOf(p)]
				if due[p.UID] || retries || s.queue.told[kinds.KeyOf(p)].woken {
					woken++
					continue
				}
				if placeable[p] {
					continue
				}
				slept++
				plan := Decide(s.state, []*corev1.Pod{p}, 1)
				if len(plan.Bindings)+len(plan.Reservations) > 0 {
					t.Fatalf("seed %d, step %d: %s could be placed, and was not woken by %v", seed, step, p.Name, c.Key)
				}
				told := s.queue.told[kinds.KeyOf(p)]
				if c.Key.Resource == "nodes" && told.text != plan.Refusals[0].Reason {
					t.Fatalf("seed %d, step %d: %s is told %q, now %q", seed, step, p.Name, told.text, plan.Refusals[0].Reason)
				}
				told.text = plan.Refusals[0].Reason // which pods that came may have changed
				s.queue.told[kinds.KeyOf(p)] = told
			}
			for _, p := range pods {
				plan := Decide(s.state, []*corev1.Pod{p}, 1)
				placeable[p] = len(plan.Bindings)+len(plan.Reservations) > 0
				for _, refusal := range plan.Refusals {
					s.queue.refused(refusal, time.Unix(int64(step), 0))
				}
			}
		}
	}
	if woken == 0 || slept < woken/4 {
		t.Errorf("%d verdicts were made anew, %d kept: the walk shows nothing", woken, slept)
	}
}

func zoneOf(n *nodeInfo) string { return n.node.Labels["zone"] }

func zones(perZone int, names ...string) []kinds.Object {
	var out []kinds.Object
	for _, z := range names {
		for i := range perZone {
			out = append(out, node(fmt.Sprintf("%s-%d", z, i), big, zone(z)))
		}
	}
	return out
}

// TestObjects: a row may look at other kinds. Here a pod has a claim by the name of its owner, which says the zone that its
// volume is in.
func TestObjects(t *testing.T) {
	maps := schema.GroupResource{Resource: "configmaps"}
	volume := func(d *demand, c *cluster) (string, bool) {
		o, ok := c.objects[kinds.Key{Resource: maps.Resource, Namespace: "shop", Name: string(d.load.group.owner)}].(*corev1.ConfigMap)
		if !ok {
			return "", false
		}
		return o.Data["zone"], true
	}
	table := rows()
	table.predicates = append(table.predicates, predicate{
		name: "VolumeZone", scope: still, wakes: ObjectChanged | NodeLabels, objects: []schema.GroupResource{maps},
		concerns: func(d *demand) bool { return d.load.group.owner != "" },
		check: func(d *demand, n *nodeInfo, c *cluster) bool {
			z, ok := volume(d, c)
			return ok && z == zoneOf(n)
		},
		words: func(d *demand, _ *nodeInfo, c *cluster) []string {
			if _, ok := volume(d, c); !ok {
				return []string{"node(s) wait for a volume"}
			}
			return []string{"node(s) had no volume"}
		},
	})
	s := memory.New(append(zones(2, "x", "y"), pod("p", "", owned("claim")))...)
	scheduler := New(Options{Store: s, Commit: s, Events: s})
	scheduler.table = table
	run(t, scheduler)
	awaitEvent(t, s, "Warning FailedScheduling 0/4 nodes are available: 4 node(s) wait for a volume. "+
		"preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.")
	claim := &corev1.ConfigMap{Data: map[string]string{"zone": "y"}}
	claim.Namespace, claim.Name = "shop", "claim"
	commit(t, s, store.Write{Key: kinds.KeyOf(claim), Object: claim})
	await(t, s, "p", func(p *corev1.Pod) bool { return strings.HasPrefix(p.Spec.NodeName, "y") })

	if again := newState(s.View(), table); len(again.objects) != 1 {
		t.Errorf("a new state has the objects %v", again.objects)
	}
	if len(NewState(s.View()).objects) != 0 {
		t.Error("objects are kept that no row looks at")
	}
}

// TestStandings: the nodes that a pod is told of are the best of those that can take it, with the scores that rows give each.
func TestStandings(t *testing.T) {
	several := 0
	for seed := range short.Of(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := someWorld(r)
		s := NewState(view.Of(w.objects()...))
		plan := Decide(s, []*corev1.Pod{w.pod}, seed)
		if len(plan.Bindings) == 0 {
			continue
		}
		b := plan.Bindings[0]
		want := map[string]int64{}
		round := newRound(s, seed)
		c := round.classify([]*corev1.Pod{w.pod})[0]
		round.prepare(c)
		var spots []spot
		for _, n := range round.nodes {
			if round.refuses(c.predicates, c.demand, n) == nil {
				spots = append(spots, spot{node: n, nodes: 1})
			}
		}
		for _, row := range round.state.table.scores {
			numbers, most := make([]int64, len(spots)), int64(0)
			for i, one := range spots {
				if row.of != nil && (row.concerns == nil || row.concerns(c.demand)) {
					numbers[i] = row.of(c.demand, one.node, &round.cluster)
					most = max(most, numbers[i])
				}
			}
			switch {
			case row.concerns != nil && !row.concerns(c.demand), row.scale != nil && most == 0:
				for i := range numbers {
					numbers[i] = row.nothing
				}
			case row.rank != nil:
				row.rank(c.demand, spots, numbers)
			case row.scale != nil:
				for i := range numbers {
					numbers[i] = row.scale(numbers[i], most)
				}
			}
			for i, one := range spots {
				want[one.node.name] += row.weight * numbers[i]
			}
		}
		if b.Among != len(spots) || len(b.Best) != min(shown, len(spots)) || b.Best[0].Node != b.Node {
			t.Fatalf("seed %d: of %d nodes %+v, among %d", seed, len(spots), b.Best, b.Among)
		}
		told, least := map[string]bool{}, b.Best[0].Score
		for _, one := range b.Best {
			if one.Score != want[one.Node] || one.Score > least {
				t.Fatalf("seed %d: %+v, rows say %v", seed, b.Best, want)
			}
			told[one.Node], least = true, one.Score
		}
		for name, score := range want {
			if !told[name] && score > least {
				t.Fatalf("seed %d: %s with %d is left out of %+v", seed, name, score, b.Best)
			}
		}
		if len(b.Best) > 1 {
			several++
		}
	}
	if several == 0 {
		t.Error("no pod had a choice")
	}
}
