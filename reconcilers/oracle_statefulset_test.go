package reconcilers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	upstream "k8s.io/kubernetes/pkg/controller/statefulset"
	"k8s.io/utils/ptr"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/statefulset"
	"lockstep/store/view"
)

// TestStatefulSetIsKubernetes lets Kubernetes' own algorithm decide beside ours about the same objects, over random histories:
// the same revisions, pods, labels, events and status. The differences are those that docs/reconcilers.md tells; each is
// recognised by its reason, and nothing else may differ.
func TestStatefulSetIsKubernetes(t *testing.T) {
	differences := map[string]int{}
	steps := 0
	for seed := range short.Of(300) {
		w := newStatefulWorld(seed)
		for range 60 {
			ours, why := w.ours(t)
			theirs := w.theirs(t)
			steps++
			if why == claimsFirst { // two of our decisions are one there
				differences[why]++
				w.carryOut(ours)
				var more statefulWrites
				more, why = w.ours(t)
				ours = ours.and(more)
				theirs.status = ours.status // of what is about to be, there
			}
			if theirs.stopped {
				theirs.status, ours.stopped = ours.status, true // none is returned
			}
			if theirs.stopped && w.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
				why = "parallel replicas do not wait for the claim of one"
			}
			if why != "" {
				differences[why]++
			} else if diff := cmp.Diff(theirs.lines(), ours.lines()); diff != "" {
				t.Fatalf("seed %d, %s: Kubernetes (-) and ours (+)\n%s\nof\n%s", seed, w.now.Format(time.TimeOnly), diff, w)
			}
			w.carryOut(ours)
			w.happen()
		}
	}
	t.Logf("%d decisions, of which differ: %v", steps, differences)
	if differences["stuck rollout"] == 0 && !testing.Short() {
		t.Error("no history shows a stuck rollout")
	}
}

// claimsFirst says that pods that are not wanted are dropped once their claims go with them, and not before.
const claimsFirst = "claims before their pods"

// statefulWrites are what a decision asks for.
type statefulWrites struct {
	revisions []*appsv1.ControllerRevision    // created, or with another number
	gone      []string                        // revisions
	made      []*corev1.Pod                   // created or changed
	deleted   []string                        // pods
	claims    []*corev1.PersistentVolumeClaim // created or changed
	events    []string
	status    appsv1.StatefulSetStatus
	stopped   bool // by an error
}

// and are the writes of two decisions, one after the other.
func (w statefulWrites) and(more statefulWrites) statefulWrites {
	return statefulWrites{
		slices.Concat(w.revisions, more.revisions), slices.Concat(w.gone, more.gone), slices.Concat(w.made, more.made),
		slices.Concat(w.deleted, more.deleted), slices.Concat(w.claims, more.claims), slices.Concat(w.events, more.events),
		more.status, false,
	}
}

func (w statefulWrites) lines() (out []string) {
	for _, r := range w.revisions {
		out = append(out, fmt.Sprintf("revision %s %d %s %v %v", r.Name, r.Revision, r.Data.Raw, r.Labels, r.Annotations))
	}
	for _, name := range w.gone {
		out = append(out, "revision gone "+name)
	}
	for _, p := range w.made {
		slices.SortFunc(p.Spec.Volumes, func(a, b corev1.Volume) int { return strings.Compare(a.Name, b.Name) }) // in no order there
		body, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Labels: p.Labels, Annotations: p.Annotations, OwnerReferences: p.OwnerReferences, Finalizers: p.Finalizers,
		}, Spec: p.Spec})
		out = append(out, fmt.Sprintf("pod %s %s %v", p.Name, body, err))
	}
	for _, name := range w.deleted {
		out = append(out, "pod deleted "+name)
	}
	for _, c := range w.claims {
		if w.stopped && c.UID == "" { // before it has owners
			c = c.DeepCopy()
			c.OwnerReferences = nil
		}
		body, err := json.Marshal(corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Labels: c.Labels, Annotations: c.Annotations, OwnerReferences: c.OwnerReferences,
		}, Spec: c.Spec})
		out = append(out, fmt.Sprintf("claim %s %s %v", c.Name, body, err))
	}
	// Nor is it worth telling that a pod was changed that is deleted in the same breath.
	out = append(out, slices.DeleteFunc(slices.Clone(w.events), func(e string) bool {
		return slices.ContainsFunc(w.deleted, func(name string) bool {
			return strings.HasPrefix(e, "Normal SuccessfulUpdate Update Pod "+name+" ")
		})
	})...)
	for i, line := range out { // several claims are named in no order there
		if head, list, several := strings.Cut(strings.TrimSuffix(line, "]"), "failed error: ["); several {
			out[i] = head + fmt.Sprint(slices.Sorted(strings.SplitSeq(list, ", ")))
		}
	}
	slices.Sort(out)
	s := w.status
	return append(slices.Compact(out), fmt.Sprintf("status %d: %d replicas, %d ready, %d available, %d at %s, %d at %s, %d collisions",
		s.ObservedGeneration, s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.CurrentRevision,
		s.UpdatedReplicas, s.UpdateRevision, *s.CollisionCount))
}

// statefulWorld is one set with what it has.
type statefulWorld struct {
	rng       *rand.Rand
	now       time.Time
	set       *appsv1.StatefulSet
	pods      map[string]*corev1.Pod
	revisions map[string]*appsv1.ControllerRevision
	claims    map[string]*corev1.PersistentVolumeClaim
	uids      int
}

func newStatefulWorld(seed uint64) *statefulWorld {
	w := &statefulWorld{
		rng: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 2, 12, 0, 0, 500, time.UTC),
		pods: map[string]*corev1.Pod{}, revisions: map[string]*appsv1.ControllerRevision{},
		claims: map[string]*corev1.PersistentVolumeClaim{},
	}
	app := map[string]string{"app": "db"}
	replicas, limit := int32(w.rng.IntN(6)), int32(w.rng.IntN(3))
	w.set = &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "db", UID: "set", Generation: 1, Annotations: map[string]string{"kubernetes.io/change-cause": "x"},
		},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, RevisionHistoryLimit: &limit, ServiceName: "peers",
			Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: app},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "a"}}},
			},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type:          appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{},
			},
		},
	}
	if w.rng.IntN(2) == 0 {
		w.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	}
	if w.rng.IntN(3) == 0 {
		w.set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 2}
	}
	if w.rng.IntN(3) == 0 {
		w.set.Spec.MinReadySeconds = 30
	}
	if w.rng.IntN(6) == 0 {
		w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	}
	for n := range w.rng.IntN(3) {
		claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: []string{"data", "log"}[n]}}
		if n == 0 {
			claim.Labels, claim.Annotations = map[string]string{"of": "db"}, map[string]string{"a": "b"}
			w.set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "other"}}
		}
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		w.set.Spec.VolumeClaimTemplates = append(w.set.Spec.VolumeClaimTemplates, claim)
	}
	w.retain()
	strategy.Default(w.set)
	return w
}

// retain gives the set one of the retention policies.
func (w *statefulWorld) retain() {
	const retain, gone = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	policies := []*appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		nil, {WhenDeleted: gone, WhenScaled: gone}, {WhenDeleted: gone, WhenScaled: retain}, {WhenDeleted: retain, WhenScaled: gone},
	}
	w.set.Spec.PersistentVolumeClaimRetentionPolicy = policies[w.rng.IntN(len(policies))]
	strategy.Default(w.set)
}

// push changes the set as a manifest would.
func (w *statefulWorld) push() {
	w.set = w.set.DeepCopy()
	w.set.Generation++
	rolling := w.set.Spec.UpdateStrategy.RollingUpdate
	switch w.rng.IntN(6) {
	case 0, 1:
		w.set.Spec.Template.Spec.Containers[0].Image = string(rune('a' + w.rng.IntN(4)))
	case 2:
		*w.set.Spec.Replicas = int32(w.rng.IntN(7))
	case 3:
		if rolling != nil {
			partition := int32(w.rng.IntN(4))
			rolling.Partition = &partition
		}
	case 4:
		if rolling != nil {
			shapes := []intstr.IntOrString{intstr.FromInt32(1), intstr.FromInt32(2), intstr.FromString("10%"), intstr.FromString("70%")}
			rolling.MaxUnavailable = &shapes[w.rng.IntN(len(shapes))]
		}
	case 5:
		w.retain()
	}
}

// happen lets time pass, and things happen to pods.
func (w *statefulWorld) happen() {
	w.now = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Second)
	if w.rng.IntN(12) == 0 {
		w.push()
	}
	for name, was := range w.pods {
		p := was.DeepCopy()
		w.pods[name] = p
		broken := p.Spec.Containers[0].Image == "b" // a template with which pods do not become ready
		switch n := w.rng.IntN(40); {
		case p.DeletionTimestamp != nil && n < 25:
			delete(w.pods, name)
		case p.DeletionTimestamp == nil && n < 25:
			w.become(p, corev1.PodRunning, !broken)
		case n == 25:
			w.become(p, corev1.PodRunning, false)
		case n == 26 && w.rng.IntN(3) == 0:
			w.become(p, []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}[w.rng.IntN(2)], false)
		case n == 27 && w.rng.IntN(5) == 0:
			delete(p.Labels, appsv1.StatefulSetPodNameLabel)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.claims)) {
		w.claim(name)
	}
}

// claim lets something happen to a claim: it is removed, by somebody or since what owns it is gone, and goes once no pod has it;
// something else controls it, or does so no longer.
func (w *statefulWorld) claim(name string) {
	c := w.claims[name].DeepCopy()
	w.claims[name] = c
	_, used := w.pods[name[strings.Index(name, "-")+1:]]
	alive := func(ref metav1.OwnerReference) bool {
		there := []types.UID{w.set.UID, "other"}
		for _, p := range w.pods {
			there = append(there, p.UID)
		}
		return slices.Contains(there, ref.UID)
	}
	now := metav1.NewTime(w.now)
	switch n := w.rng.IntN(60); {
	case c.DeletionTimestamp != nil && !used && n < 30:
		delete(w.claims, name)
	case len(c.OwnerReferences) > 0 && !slices.ContainsFunc(c.OwnerReferences, alive) && n < 30:
		c.DeletionTimestamp = &now
	case n == 30:
		c.DeletionTimestamp = &now
	case n == 31:
		c.OwnerReferences = []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "other", Controller: ptr.To(true)},
		}
	case n == 32:
		other := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "y", UID: "other"}
		c.OwnerReferences = append(c.OwnerReferences, other)
	case n == 33:
		c.OwnerReferences = nil
	case n == 34 && len(c.OwnerReferences) > 0:
		c.OwnerReferences[0].Controller = nil
	case n == 35:
		c.OwnerReferences = []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "before", Controller: ptr.To(true)},
		}
	}
}

func (w *statefulWorld) become(p *corev1.Pod, phase corev1.PodPhase, ready bool) {
	state := corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	if p.Status.Phase == phase && len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Status == state {
		return
	}
	p.Status.Phase = phase
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodReady, Status: state, LastTransitionTime: metav1.NewTime(w.now.Truncate(time.Second)),
	}}
}

func (w *statefulWorld) carryOut(d statefulWrites) {
	for _, r := range d.revisions {
		w.uids++
		if r.UID == "" {
			r.UID = types.UID(fmt.Sprint("revision-", w.uids))
		}
		w.revisions[r.Name] = r
	}
	for _, name := range d.gone {
		delete(w.revisions, name)
	}
	for _, p := range d.made {
		if p.UID == "" {
			w.uids++
			p.UID, p.Status.Phase = types.UID(fmt.Sprint("pod-", w.uids)), corev1.PodPending
		}
		w.pods[p.Name] = p
	}
	for _, c := range d.claims {
		if c.UID == "" {
			w.uids++
			c.UID = types.UID(fmt.Sprint("claim-", w.uids))
		}
		w.claims[c.Name] = c
	}
	for _, name := range d.deleted {
		p := w.pods[name].DeepCopy()
		now := metav1.NewTime(w.now)
		p.DeletionTimestamp = &now
		w.pods[name] = p
	}
	w.set = w.set.DeepCopy()
	w.set.Status = d.status
}

// ours is what the reconciler decides. why says by which known difference Kubernetes decides otherwise; empty: by none.
func (w *statefulWorld) ours(t *testing.T) (out statefulWrites, why string) {
	t.Helper()
	objects := []kinds.Object{w.set}
	for _, p := range w.pods {
		objects = append(objects, p)
	}
	for _, r := range w.revisions {
		objects = append(objects, r)
	}
	for _, c := range w.claims {
		objects = append(objects, c)
	}
	r, v, key := statefulset.New(), view.Of(objects...), kinds.KeyOf(w.set)
	d, err := r.Decide(v.Only(r.Sees()), key, w.now)
	if err == nil {
		err = engine.Check(r, v, key, d)
	}
	if err != nil {
		t.Fatalf("%v\nof\n%s", err, w)
	}
	out.status = w.set.Status
	if d.Status != nil {
		out.status = d.Status.(*appsv1.StatefulSet).Status
	}
	told := func(e *loop.Event, name string) {
		if e != nil {
			out.events = append(out.events, e.Type+" "+e.Reason+" "+strings.ReplaceAll(e.Message, "{name}", name))
		}
	}
	for _, want := range d.Wants {
		old := v.Get(kinds.KeyOf(want.Object))
		if old != nil && len(engine.Changes(old, want.Object)) == 0 {
			continue
		}
		told(want.Done, want.Object.GetName())
		switch o := want.Object.DeepCopyObject().(type) {
		case *corev1.Pod:
			out.made = append(out.made, o)
		case *appsv1.ControllerRevision:
			out.revisions = append(out.revisions, o)
		case *corev1.PersistentVolumeClaim:
			out.claims = append(out.claims, o)
			if o.UID != "" && w.condemned(o.Name) {
				why = claimsFirst
			}
		}
	}
	for _, e := range d.Events {
		told(&e, "")
	}
	for _, drop := range d.Drops {
		told(drop.Done, drop.Key.Name)
		if drop.Key.Resource == "controllerrevisions" {
			out.gone = append(out.gone, drop.Key.Name)
			continue
		}
		out.deleted = append(out.deleted, drop.Key.Name)
		if strings.HasPrefix(drop.Reason, "it is not ready") {
			why = "stuck rollout"
		}
	}
	return out, why
}

// condemned says that the replica of a claim is not wanted.
func (w *statefulWorld) condemned(claim string) bool {
	ordinal, _ := kinds.ReplicaOfClaim(w.set, claim)
	first, end := kinds.Ordinals(w.set)
	return ordinal < first || ordinal >= end
}

// theirs is what Kubernetes decides.
func (w *statefulWorld) theirs(t *testing.T) statefulWrites {
	t.Helper()
	recorder := record.NewFakeRecorder(1000)
	o := &oracle{world: w}
	control := upstream.NewDefaultStatefulSetControl(upstream.NewStatefulPodControlFromManager(o, recorder), o, o)
	var pods []*corev1.Pod
	for _, p := range w.pods {
		pods = append(pods, p.DeepCopy())
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	status, err := control.UpdateStatefulSet(context.Background(), w.set.DeepCopy(), pods, w.now)
	if err != nil && !strings.Contains(err.Error(), "is being deleted") {
		t.Fatalf("Kubernetes: %v\nof\n%s", err, w)
	}
	if o.stopped = err != nil; !o.stopped {
		o.status = *status
	}
	o.status.CurrentReplicas += w.miscounted(o.deleted, o.status.UpdateRevision)
	close(recorder.Events)
	for e := range recorder.Events {
		o.events = append(o.events, e)
	}
	// A pod is written along with its claims, as it is.
	o.made = slices.DeleteFunc(o.made, func(p *corev1.Pod) bool { return equality.Semantic.DeepEqual(p, w.pods[p.Name]) })
	// Labels of what is deleted in the same breath are not worth a write.
	o.made = slices.DeleteFunc(o.made, func(p *corev1.Pod) bool { return slices.Contains(o.deleted, p.Name) })
	return o.statefulWrites
}

// miscounted is how many pods Kubernetes takes off the current replicas for a moment that were none: those that an update
// drops at a revision between the current one and the new one.
func (w *statefulWorld) miscounted(deleted []string, update string) (n int32) {
	u, start := w.set.Spec.UpdateStrategy.RollingUpdate, 0
	if u == nil {
		return 0
	}
	if o := w.set.Spec.Ordinals; o != nil {
		start = int(o.Start)
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(deleted))) {
		p := w.pods[name]
		revision := p.Labels[appsv1.StatefulSetRevisionLabel]
		ordinal, err := strconv.Atoi(strings.TrimPrefix(name, "db-"))
		ended := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		if err == nil && ordinal >= start+int(*u.Partition) && ordinal < start+int(*w.set.Spec.Replicas) &&
			revision != update && revision != w.set.Status.CurrentRevision &&
			(!ended || w.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement) {
			n++
		}
	}
	return n
}

func (w *statefulWorld) String() string {
	var b strings.Builder
	u := w.set.Spec.UpdateStrategy
	fmt.Fprintf(&b, "%s %s %d replicas of %s\n", w.set.Spec.PodManagementPolicy, u.Type, *w.set.Spec.Replicas,
		w.set.Spec.Template.Spec.Containers[0].Image)
	if u.RollingUpdate != nil {
		fmt.Fprintf(&b, "partition %d, maxUnavailable %s\n", *u.RollingUpdate.Partition, u.RollingUpdate.MaxUnavailable)
	}
	fmt.Fprintf(&b, "%+v\n", w.set.Status)
	for _, p := range w.pods {
		fmt.Fprintf(&b, "%s %s %s %s ending %v %v\n", p.Name, p.Spec.Containers[0].Image, p.Labels[appsv1.StatefulSetRevisionLabel],
			p.Status.Phase, p.DeletionTimestamp != nil, p.Status.Conditions)
	}
	return b.String()
}
