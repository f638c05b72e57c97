package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumerestrictions"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumezone"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

func storageClass(name, provisioner string, change func(*storagev1.StorageClass)) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	if change != nil {
		change(c)
	}
	return c
}

// claim asks for gigabytes of a class.
func claim(name, class string, size int, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name)}}
	c.Spec.StorageClassName = &class
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = quantities(fmt.Sprintf("storage=%dGi", size))
	c.Status.Phase = corev1.ClaimPending
	if change != nil {
		change(c)
	}
	return c
}

func boundTo(pv string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = pv, corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
}

func persistent(name, class string, size int, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("u-" + name)}}
	pv.Spec.StorageClassName = class
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv.Spec.Capacity = quantities(fmt.Sprintf("storage=%dGi", size))
	pv.Status.Phase = corev1.VolumeAvailable
	if change != nil {
		change(pv)
	}
	return pv
}

// at has a volume be on nodes with a label.
func at(key string, values ...string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}},
		}}}}
	}
}

func givenTo(c string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "shop", Name: c,
			UID: types.UID("u-" + c)}
	}
}

func mounting(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v-" + name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
	}
}

// someVolumeObject is a claim, a volume or a class of a few.
func someVolumeObject(r *rand.Rand) kinds.Object {
	classes := []string{"static", "made", "now", "none"}
	switch r.IntN(5) {
	case 0:
		name := one(r, classes[:3]...)
		return storageClass(name, map[string]string{"static": volume.NotSupportedProvisioner}[name], func(c *storagev1.StorageClass) {
			if name != "static" {
				c.Provisioner = maker
			}
			if name == "now" {
				*c.VolumeBindingMode = storagev1.VolumeBindingImmediate
			}
			if r.IntN(3) == 0 {
				c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{
					{Key: "zone", Values: []string{"z0", "z1"}}}}}
			}
		})
	case 1, 2:
		i := r.IntN(5) // no two are of one size, of which kube-scheduler takes any
		return persistent(fmt.Sprint("pv", i), one(r, classes...), 1+i, func(pv *corev1.PersistentVolume) {
			switch r.IntN(4) {
			case 0:
				at("kubernetes.io/hostname", fmt.Sprint("n", r.IntN(3)))(pv)
			case 1:
				at("zone", fmt.Sprint("z", r.IntN(3)), "z9")(pv)
			case 2:
				at("kubernetes.io/hostname", fmt.Sprint("n", r.IntN(3)), fmt.Sprint("n", r.IntN(3)))(pv)
			}
			if r.IntN(4) == 0 {
				givenTo(fmt.Sprint("c", i))(pv) // nor given to one claim
			}
			if r.IntN(6) == 0 {
				pv.Status.Phase = corev1.VolumeReleased
			}
			if r.IntN(4) == 0 {
				pv.Labels = map[string]string{corev1.LabelTopologyZone: one(r, "z0", "z0__z1", "z2", "")}
			}
			if r.IntN(6) == 0 {
				pv.Labels = map[string]string{corev1.LabelFailureDomainBetaZone: one(r, "z0", "z1")}
			}
			if r.IntN(5) == 0 {
				pv.Spec.AccessModes = append(pv.Spec.AccessModes, corev1.ReadWriteOncePod)
			}
			if r.IntN(6) == 0 {
				pv.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
			}
			if r.IntN(2) == 0 {
				pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					Driver: maker, VolumeHandle: pv.Name}}
			}
		})
	}
	return claim(fmt.Sprint("c", r.IntN(4)), one(r, classes...), 1+r.IntN(3), func(c *corev1.PersistentVolumeClaim) {
		switch r.IntN(6) {
		case 0, 1:
			boundTo(fmt.Sprint("pv", r.IntN(5)))(c)
		case 2:
			c.Annotations = map[string]string{volume.AnnSelectedNode: fmt.Sprint("n", r.IntN(3))}
		}
		if r.IntN(4) == 0 {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		}
		if r.IntN(12) == 0 {
			c.Status.Phase = corev1.ClaimLost
		}
		if r.IntN(12) == 0 {
			now := metav1.Unix(1, 0)
			c.DeletionTimestamp, c.Finalizers = &now, []string{kinds.ClaimProtection}
		}
		if r.IntN(8) == 0 {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: "z0"}}
		}
		if r.IntN(3) == 0 { // it was made for the pod with which worlds are asked
			c.Name = "incoming-v0"
			c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "incoming",
				UID: one[types.UID](r, "u-incoming", "u-incoming", "other"), Controller: new(true)}}
		}
	})
}

// someVolumeObjects are so many of them, but for those of which there is one already.
func someVolumeObjects(r *rand.Rand, tries int) (out []kinds.Object) {
	return someOf(r, tries, someVolumeObject)
}

func someOf(r *rand.Rand, tries int, one func(*rand.Rand) kinds.Object) (out []kinds.Object) {
	there := map[kinds.Key]bool{}
	for range tries {
		if o := one(r); !there[kinds.KeyOf(o)] {
			there[kinds.KeyOf(o)] = true
			out = append(out, o)
		}
	}
	return out
}

// TestVolumeOracles: what pods that mount claims are refused, alone or on a node, is what kube-scheduler's plugins say, in its words.
func TestVolumeOracles(t *testing.T) {
	schedulermetrics.Register()
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	binding := &config.VolumeBindingArgs{BindTimeoutSeconds: 600,
		Shape: []config.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}}
	seen := map[string]int{}
	for seed := range max(200, short.Of(400)) { // fewer show little
		r := rand.New(rand.NewPCG(seed, 11))
		w := &world{pod: pod("incoming", "", someMounts(r))}
		for i := range 3 {
			w.nodes = append(w.nodes, node(fmt.Sprint("n", i), big, func(n *corev1.Node) {
				n.Labels["zone"] = fmt.Sprint("z", r.IntN(3))
				if r.IntN(2) == 0 {
					n.Labels[corev1.LabelTopologyZone] = n.Labels["zone"]
				}
			}))
		}
		w.others = append(someVolumeObjects(r, 25), someOf(r, 10, someDriverObject)...)
		for i := range r.IntN(3) {
			p := pod(fmt.Sprint("p", i), "", someMounts(r))
			p.Spec.NodeName = one(r, w.nodes...).Name
			w.placed = append(w.placed, p)
		}
		got := w.volumes(t)
		want := w.volumesOracle(t,
			frameworkruntime.FactoryAdapter(features, volumerestrictions.New), nil,
			frameworkruntime.FactoryAdapter(features, nodevolumelimits.NewCSI), nil,
			frameworkruntime.FactoryAdapter(features, volumebinding.New), binding,
			frameworkruntime.FactoryAdapter(features, volumezone.New), nil)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: nodes are refused for\n%q\nkube-scheduler says\n%q", seed, got, want)
		}
		for _, reason := range want {
			for _, part := range refusals() {
				if strings.Contains(reason, part) {
					seen[part]++
				}
			}
			if score, placed := strings.CutPrefix(reason, "score "); placed {
				seen[map[bool]string{true: "no score", false: "a score"}[score == "0"]]++
			}
		}
	}
	for _, part := range append(refusals(), "no score", "a score") {
		if seen[part] == 0 {
			t.Errorf("no world shows %q", part)
		}
	}
}

// volumes are our refusals for each node; one for all nodes alike where the pod is refused before they are asked.
func (w *world) volumes(t *testing.T) (out []string) {
	t.Helper()
	round := newRound(NewState(view.Of(w.objects()...)), 1)
	l := loadOf(w.pod)
	l.group, _ = round.group(string(appendGroup(nil, w.pod)), w.pod)
	d, err := newDemand(w.pod, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.survey(&round.cluster); err != nil {
		return []string{err.Error()}
	}
	for _, n := range round.nodes {
		text := ""
		for _, row := range round.state.table.predicates {
			if strings.Contains(row.name, "Volume") && (row.concerns == nil || row.concerns(d)) && !row.check(d, n, &round.cluster) {
				text = strings.Join(row.words(d, n, &round.cluster), ", ")
				break
			}
		}
		if text == "" {
			text = fmt.Sprint("score ", d.roomOn(n, &round.cluster))
		}
		out = append(out, text)
	}
	return out
}

// TestVolumesAreGivenOnce: of pods that are decided at once no two get one volume, all claims of a pod that finds a node are chosen for,
// and the choices hold the rules of the binder.
func TestVolumesAreGivenOnce(t *testing.T) {
	reserved, deferred := 0, 0
	for seed := range short.Of(300) {
		r := rand.New(rand.NewPCG(seed, 12))
		var objects []kinds.Object
		for i := range 3 {
			objects = append(objects, randomNode(r, fmt.Sprint("n", i)))
		}
		objects = append(objects, someVolumeObjects(r, 30)...)
		var pods []*corev1.Pod
		for i := range 6 {
			pods = append(pods, pod(fmt.Sprint("i", i), "", someMounts(r)))
		}
		v := view.Of(objects...)
		s := NewState(v)
		plan := Decide(s, pods, seed)
		given, chosen := map[string]string{}, map[string]string{}
		for _, res := range plan.Reservations {
			reserved++
			n, _ := view.Get[*corev1.Node](v, "", res.Node)
			for _, pv := range res.Volumes {
				if by, twice := given[pv.Name]; twice {
					t.Fatalf("seed %d: %s is given to %s and %s", seed, pv.Name, by, res.Pod.Name)
				}
				given[pv.Name] = res.Pod.Name
				if err := volume.CheckNodeAffinity(pv, n.Labels); err != nil {
					t.Fatalf("seed %d: %s is not on %s", seed, pv.Name, n.Name)
				}
				c, _ := view.Get[*corev1.PersistentVolumeClaim](v, "shop", pv.Spec.ClaimRef.Name)
				size, asked := pv.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
				if size.Cmp(asked) < 0 || !volume.IsVolumeBoundToClaim(pv, c) || pv.Annotations[volume.AnnBoundByController] != "yes" {
					t.Fatalf("seed %d: %+v is given to %+v", seed, pv, c)
				}
			}
			for _, m := range mountsOf(res.Pod) {
				if node, twice := chosen[m.claim.Name]; twice {
					t.Fatalf("seed %d: claim %s is chosen for twice, on %s, too", seed, m.claim.Name, node)
				}
				if c, _ := view.Get[*corev1.PersistentVolumeClaim](v, "shop", m.claim.Name); c.Spec.VolumeName == "" {
					chosen[m.claim.Name] = res.Node
				}
			}
			for _, c := range res.Claims {
				if c.Annotations[volume.AnnSelectedNode] != res.Node {
					t.Fatalf("seed %d: claim %s is asked for on %q", seed, c.Name, c.Annotations[volume.AnnSelectedNode])
				}
			}
		}
		deferred += len(plan.Deferred)
		if n := len(plan.Bindings) + len(plan.Reservations) + len(plan.Refusals) + len(plan.Deferred); n != len(pods) {
			t.Fatalf("seed %d: of %d pods %d are decided", seed, len(pods), n)
		}
	}
	if reserved == 0 || deferred == 0 {
		t.Errorf("%d pods have a node for their claims, %d wait for one: the worlds show nothing", reserved, deferred)
	}
}

func TestRefusedForVolumes(t *testing.T) {
	helpless := func(n int) string {
		return fmt.Sprintf(" preemption: 0/%d nodes are available: %d Preemption is not helpful for scheduling.", n, n)
	}
	nodes := []kinds.Object{node("a", big, zone("x")), node("b", big, zone("y"))}
	for _, c := range []struct {
		name    string
		objects []kinds.Object
		want    string
	}{
		{"no claim", nil, `0/2 nodes are available: persistentvolumeclaim "data" not found.` + helpless(2)},
		{"a claim that is to be bound before", []kinds.Object{claim("data", "gone", 1, nil)},
			"0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + helpless(2)},
		{"a volume elsewhere", []kinds.Object{claim("data", "", 1, boundTo("v")), persistent("v", "", 1, at("zone", "z"))},
			"0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity." + helpless(2)},
		{"no volume that fits", []kinds.Object{storageClass("late", volume.NotSupportedProvisioner, nil), claim("data", "late", 5, nil),
			persistent("v", "late", 1, nil)},
			"0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + helpless(2)},
		{"a volume that is gone", []kinds.Object{claim("data", "", 1, boundTo("v"))},
			`0/2 nodes are available: persistentvolume "v" not found.` + helpless(2)},
		{"one pod alone", []kinds.Object{claim("data", "", 1, func(c *corev1.PersistentVolumeClaim) {
			boundTo("v")(c)
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		}), persistent("v", "", 1, nil), pod("o", "", func(p *corev1.Pod) { on("a")(p); mounting("data")(p) })},
			"0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already " +
				"in-use by another pod. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
	} {
		p := pod("p", "", mounting("data"))
		plan := Decide(NewState(view.Of(append(slices.Clone(nodes), c.objects...)...)), []*corev1.Pod{p}, 1)
		if len(plan.Refusals) != 1 || plan.Refusals[0].Reason != c.want {
			t.Errorf("%s: %+v, want %q", c.name, plan, c.want)
		}
	}
}

// TestRunWithClaims: a pod gets a node, its claims get volumes for it, and then it is bound; what is refused is chosen anew.
func TestRunWithClaims(t *testing.T) {
	s := memory.New(node("a", big, nil),
		storageClass("made", "example.com/maker", nil), storageClass("late", volume.NotSupportedProvisioner, nil),
		persistent("small", "late", 1, at("kubernetes.io/hostname", "a")), claim("static", "late", 1, nil), claim("made", "made", 2, nil),
		pod("p", "", mounting("static", "made")))
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	claims := kinds.For[*corev1.PersistentVolumeClaim]()
	selected := func() (c *corev1.PersistentVolumeClaim) {
		t.Helper()
		awaitObject(t, s, claims.Key("shop", "made"), func(o kinds.Object) bool {
			c = o.(*corev1.PersistentVolumeClaim)
			return c.Annotations[volume.AnnSelectedNode] == "a"
		})
		return c
	}
	change := func(o kinds.Object, how func(kinds.Object)) {
		t.Helper()
		o = o.DeepCopyObject().(kinds.Object)
		how(o)
		commit(t, s, store.Write{Key: kinds.KeyOf(o), Object: o, If: kinds.Revision(o)})
	}
	c := selected()
	p := await(t, s, "p", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
	pv, _ := view.Get[*corev1.PersistentVolume](s.View(), "", "small")
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Name != "static" || p.Spec.NodeName != "" {
		t.Fatalf("the volume is for %+v, the pod on %q", pv.Spec.ClaimRef, p.Spec.NodeName)
	}
	change(c, func(o kinds.Object) { o.SetAnnotations(nil) }) // there was no room for it
	awaitEvent(t, s, `Warning FailedScheduling running PreBind plugin "VolumeBinding": binding volumes: `+
		`provisioning failed for PVC "made"`)
	await(t, s, "p", func(p *corev1.Pod) bool {
		return p.Status.NominatedNodeName == "" && len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Reason == "SchedulerError"
	})
	c = selected()
	change(c, func(o kinds.Object) { boundTo("other")(o.(*corev1.PersistentVolumeClaim)) })
	other := persistent("other", "made", 2, givenTo("made"))
	commit(t, s, store.Write{Key: kinds.KeyOf(other), Object: other})
	if p := s.View().Get(kinds.KeyOf(p)).(*corev1.Pod); p.Spec.NodeName != "" {
		t.Fatal("the pod is bound before its claims are")
	}
	static, _ := view.Get[*corev1.PersistentVolumeClaim](s.View(), "shop", "static")
	change(static, func(o kinds.Object) { boundTo("small")(o.(*corev1.PersistentVolumeClaim)) })
	await(t, s, "p", func(p *corev1.Pod) bool { return p.Spec.NodeName == "a" && p.Status.NominatedNodeName == "" })
}

// TestFailedClaimsBackOff: a pod whose claim is refused again and again holds no room in between, is tried again by the queue's back-off
// alone, and its condition stays the same.
func TestFailedClaimsBackOff(t *testing.T) {
	s := memory.New(node("a", big, nil), storageClass("made", "example.com/maker", nil), claim("made", "made", 2, nil),
		pod("p", "", mounting("made")))
	scheduler := New(Options{Store: s, Commit: s, Events: s})
	key := kinds.For[*corev1.PersistentVolumeClaim]().Key("shop", "made")
	began, turns := time.Now(), 0
	run(t, scheduler)
	for ; turns < 3; turns++ {
		awaitObject(t, s, key, func(o kinds.Object) bool { return o.GetAnnotations()[volume.AnnSelectedNode] == "a" })
		await(t, s, "p", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
		c := s.View().Get(key).DeepCopyObject().(kinds.Object)
		c.SetAnnotations(map[string]string{volume.AnnStorageProvisioner: "example.com/maker"})
		commit(t, s, store.Write{Key: key, Object: c, If: kinds.Revision(c)})
		await(t, s, "p", func(p *corev1.Pod) bool {
			return p.Status.NominatedNodeName == "" && len(p.Status.Conditions) == 1 &&
				p.Status.Conditions[0].Status == corev1.ConditionFalse && p.Status.Conditions[0].Reason == corev1.PodReasonSchedulerError &&
				p.Status.Conditions[0].Message == `running PreBind plugin "VolumeBinding": binding volumes: `+
					`provisioning failed for PVC "made"`
		})
	}
	if took := time.Since(began); took < 3*time.Second { // 1 s and 2 s lie between them
		t.Errorf("%d attempts within %v", turns, took)
	}
}

// TestQueueOfReservations: a pod waits for its claims for ten minutes at most, then backs off.
func TestQueueOfReservations(t *testing.T) {
	p, q, start := pod("p", "", mounting("made")), newQueue(), time.Unix(1_900_000_000, 0)
	s := NewState(view.Of(node("a", big, nil), p))
	key := kinds.KeyOf(p)
	q.reserved(Reservation{Pod: p, Node: "a"}, start)
	q.reserved(Reservation{Pod: p, Node: "a"}, start.Add(5*time.Minute)) // it was decided again, and still waits
	if next, _ := q.next(); !next.Equal(start.Add(bindTimeout)) || q.told[key].attempts != 1 {
		t.Errorf("tried again after %v, attempts %d", next.Sub(start), q.told[key].attempts)
	}
	late := start.Add(bindTimeout)
	if q.expired(key, late.Add(-time.Second)) || !q.expired(key, late) {
		t.Error("it expires at another time than after ten minutes")
	}
	q.wake(key)
	q.fail(key, late)
	if pods := q.due(s, late); len(pods) > 0 || q.expired(key, late.Add(time.Hour)) {
		t.Errorf("%d pods are due at once", len(pods))
	}
	if pods := q.due(s, late.Add(firstBackoff)); len(pods) != 1 {
		t.Errorf("%d pods are due after the back-off", len(pods))
	}
	q.reserved(Reservation{Pod: p, Node: "a"}, late.Add(firstBackoff))
	q.failed[key] = "told first"
	q.all = true
	if pods := q.due(s, late.Add(time.Hour)); len(pods) > 0 {
		t.Error("it is decided before its failure is told")
	}
	if f := q.failures(s); len(f) != 1 || f[0].Reason != "told first" || len(q.failed) > 0 {
		t.Errorf("failures: %+v", f)
	}
}

// TestReservationRenewsCondition: why no node took a pod before is not said of one that has one; that its claims failed stays.
func TestReservationRenewsCondition(t *testing.T) {
	for reason, left := range map[string]int{corev1.PodReasonUnschedulable: 0, corev1.PodReasonSchedulerError: 1} {
		p := pod("p", "", nil)
		p.Status.NominatedNodeName = "a"
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason}}
		next, changed := Reservation{Pod: p, Node: "a"}.reserved()
		if len(next.Status.Conditions) != left || changed != (left == 0) || len(p.Status.Conditions) != 1 {
			t.Errorf("%s: %+v, changed %t", reason, next.Status.Conditions, changed)
		}
	}
}

func awaitObject(t *testing.T, s *memory.Store, key kinds.Key, ok func(kinds.Object) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if o := s.View().Get(key); o != nil && ok(o) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v is %+v", key, s.View().Get(key))
		}
	}
}
