package reconcilers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	upstream "k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/daemon/util"
	clocktesting "k8s.io/utils/clock/testing"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/daemonset"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/looptest"
	"lockstep/store/view"
)

// TestDaemonSetIsKubernetes lets Kubernetes' own controller decide beside ours about the same objects, random ones: what each
// creates and deletes, turn after turn until it wants nothing more, and what the status is at first. Which of several old
// pods that are available is replaced first is chance in Kubernetes; so of those only the number is compared.
func TestDaemonSetIsKubernetes(t *testing.T) {
	acted := 0
	for seed := range short.Of(100) {
		ours, theirs := newDaemonWorld(seed), newDaemonWorld(seed)
		what := ours.String()
		oursDid, oursSays := ours.untilDone(t, ours.ours)
		theirsDid, theirsSay := theirs.untilDone(t, theirs.theirs)
		if diff := cmp.Diff(theirsDid, oursDid); diff != "" {
			t.Fatalf("seed %d: Kubernetes (-) and ours (+)\n%s\nof\n%s", seed, diff, what)
		}
		if diff := cmp.Diff(theirsSay, oursSays); diff != "" {
			t.Fatalf("seed %d: status of Kubernetes (-) and ours (+)\n%s\nof\n%s", seed, diff, what)
		}
		if len(oursDid) > 0 {
			acted++
		}
	}
	if acted == 0 {
		t.Error("nothing was ever to be done")
	}
}

// daemonWorld is a daemon set with nodes, pods and revisions.
type daemonWorld struct {
	ds        *appsv1.DaemonSet
	nodes     []*corev1.Node
	pods      []*corev1.Pod
	revisions []*appsv1.ControllerRevision
	made      int
}

// turn is what a controller does at once.
type turn struct {
	creates []*corev1.Pod
	deletes []string
	status  appsv1.DaemonSetStatus
}

func newDaemonWorld(seed uint64) *daemonWorld {
	r := rand.New(rand.NewPCG(seed, 11))
	w := &daemonWorld{ds: daemonSetOf("log", "two")}
	w.ds.UID, w.ds.Generation = "set", 2
	w.ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "2"}
	w.ds.Spec.MinReadySeconds = r.Int32N(2) * 30
	w.ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	n, none := intstr.FromInt32(1+r.Int32N(3)), intstr.FromInt32(0)
	switch r.IntN(4) {
	case 0:
		w.ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	case 1:
		w.ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &n, MaxUnavailable: &none}
	default:
		w.ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &none, MaxUnavailable: &n}
	}
	strategy.Default(w.ds)
	hash := w.remember(1, "one")
	current := w.remember(2, "two")
	for i := range 2 + r.IntN(6) {
		node := readyNode(i)
		node.Labels = map[string]string{"disk": "ssd"}
		switch r.IntN(10) {
		case 0:
			node.Labels["disk"] = "hdd"
		case 1:
			node.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}
		case 2:
			node.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}}
		case 3:
			node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		}
		w.nodes = append(w.nodes, node)
		for range []int{0, 1, 1, 1, 1, 2, 3}[r.IntN(7)] {
			w.pods = append(w.pods, w.pod(r, node.Name, []string{hash, hash, current}[r.IntN(3)]))
		}
	}
	return w
}

// remember keeps the revision of an image, and returns its hash.
func (w *daemonWorld) remember(number int64, image string) string {
	ds := w.ds.DeepCopy()
	ds.Spec.Template.Spec.Containers[0].Image = image
	d, err := daemonset.New().Decide(view.Of(ds), kinds.KeyOf(ds), looptest.Now)
	if err != nil {
		panic(err)
	}
	for _, want := range d.Wants {
		if rev, ok := want.Object.(*appsv1.ControllerRevision); ok {
			rev.UID, rev.Revision = types.UID(rev.Name), number
			w.revisions = append(w.revisions, rev)
			return rev.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
		}
	}
	panic("no revision of a new template")
}

func (w *daemonWorld) pod(r *rand.Rand, node, hash string) *corev1.Pod {
	w.made++
	template := util.CreatePodTemplate(w.ds.Spec.Template, nil, hash)
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Namespace, p.Name, p.UID = "shop", fmt.Sprintf("log-%d", w.made), types.UID(fmt.Sprintf("pod-%d", w.made))
	p.CreationTimestamp = metav1.NewTime(looptest.Now.Add(-time.Duration(1+r.IntN(100)) * time.Minute))
	p.OwnerReferences = []metav1.OwnerReference{loop.ControllerRef(w.ds)}
	p.Spec.Affinity = util.ReplaceDaemonSetPodNodeNameNodeAffinity(nil, node)
	p.Status.Phase = corev1.PodPending
	if r.IntN(8) > 0 {
		p.Spec.NodeName = node
		if r.IntN(4) > 0 {
			setReady(p, corev1.ConditionTrue, looptest.Now.Add(-time.Duration(r.IntN(60))*time.Second))
		}
		if r.IntN(8) == 0 {
			p.Status = corev1.PodStatus{Phase: []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}[r.IntN(2)]}
		}
	}
	if r.IntN(8) == 0 {
		p.DeletionTimestamp = &metav1.Time{Time: looptest.Now}
	}
	return p
}

func (w *daemonWorld) objects() (all []kinds.Object) {
	all = append(all, w.ds)
	for _, o := range w.nodes {
		all = append(all, o)
	}
	for _, o := range w.pods {
		all = append(all, o)
	}
	for _, o := range w.revisions {
		all = append(all, o)
	}
	return all
}

func (w *daemonWorld) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v minReadySeconds %d\n", w.ds.Spec.UpdateStrategy, w.ds.Spec.MinReadySeconds)
	for _, n := range w.nodes {
		fmt.Fprintf(&b, "%s %v %v\n", n.Name, n.Labels, n.Spec.Taints)
	}
	for _, p := range w.pods {
		fmt.Fprintf(&b, "%s bound %q for %s of %s, %s, ready since %v, going %v\n", p.Name, p.Spec.NodeName, targetOf(p), p.Labels,
			p.Status.Phase, podstatus.ReadySince(&p.Status), p.DeletionTimestamp != nil)
	}
	return b.String()
}

func targetOf(p *corev1.Pod) string {
	node, err := util.GetTargetNodeName(p)
	if err != nil {
		panic(err)
	}
	return node
}

// untilDone lets a controller decide and carries out what it does, again and again. It returns all that it did, and the status
// that it told first.
func (w *daemonWorld) untilDone(t *testing.T, decide func(*testing.T) turn) (did []string, first appsv1.DaemonSetStatus) {
	t.Helper()
	for n := range 10 {
		does := decide(t)
		if n == 0 {
			first = does.status
		}
		if len(does.creates)+len(does.deletes) == 0 {
			slices.Sort(did)
			return did, first
		}
		for _, name := range does.deletes {
			did = append(did, w.delete(name))
		}
		for _, p := range does.creates {
			did = append(did, w.create(p))
		}
	}
	t.Fatalf("it goes on and on: %v", did)
	return nil, first
}

// replaceable says that a pod is an old one, and available: which of these goes first is chance.
func (w *daemonWorld) replaceable(p *corev1.Pod) bool {
	available, _ := podstatus.Available(&p.Status, time.Duration(w.ds.Spec.MinReadySeconds)*time.Second, looptest.Now)
	current := w.revisions[len(w.revisions)-1].Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	return available && p.DeletionTimestamp == nil && p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != current
}

func (w *daemonWorld) delete(name string) string {
	i := slices.IndexFunc(w.pods, func(p *corev1.Pod) bool { return p.Name == name })
	p := w.pods[i].DeepCopy()
	said := "delete " + name
	if w.replaceable(p) {
		said = "delete an old one that is available"
	}
	if p.Spec.NodeName == "" || podstatus.Finished(&p.Status) {
		w.pods = slices.Delete(w.pods, i, i+1)
		return said
	}
	p.DeletionTimestamp = &metav1.Time{Time: looptest.Now}
	w.pods[i] = p
	return said
}

func (w *daemonWorld) create(p *corev1.Pod) string {
	w.made++
	node := targetOf(p)
	said := "create on " + node
	if slices.ContainsFunc(w.pods, func(old *corev1.Pod) bool { return targetOf(old) == node && w.replaceable(old) }) {
		said = "create beside an old one that is available"
	}
	p = p.DeepCopy()
	p.Namespace, p.Name, p.UID = "shop", fmt.Sprintf("new-%d", w.made), types.UID(fmt.Sprintf("pod-%d", w.made))
	p.CreationTimestamp, p.Status.Phase = metav1.NewTime(looptest.Now), corev1.PodPending
	w.pods = append(w.pods, p)
	return said
}

func (w *daemonWorld) ours(t *testing.T) (does turn) {
	t.Helper()
	d, err := daemonset.New().Decide(view.Of(w.objects()...), kinds.KeyOf(w.ds), looptest.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range d.Wants {
		if p, ok := want.Object.(*corev1.Pod); ok && p.UID == "" {
			does.creates = append(does.creates, p)
		}
	}
	for _, drop := range d.Drops {
		does.deletes = append(does.deletes, drop.Key.Name)
	}
	does.status = d.Status.(*appsv1.DaemonSet).Status
	return does
}

// theirs runs Kubernetes' controller until it has written the status for the first time: then it has looked at the daemon set
// once. What it does to pods is noted, and not done.
func (w *daemonWorld) theirs(t *testing.T) (does turn) {
	t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	var objects []runtime.Object
	for _, o := range w.objects() {
		objects = append(objects, o.DeepCopyObject())
	}
	client := fake.NewClientset(objects...)
	told := make(chan turn, 1)
	creates, deletes := make(chan *corev1.Pod, 100), make(chan string, 100)
	client.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		p := a.(k8stesting.CreateAction).GetObject().(*corev1.Pod)
		creates <- p
		return true, p, nil
	})
	client.PrependReactor("delete", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		deletes <- a.(k8stesting.DeleteAction).GetName()
		return true, nil, nil
	})
	client.PrependReactor("update", "daemonsets", func(a k8stesting.Action) (bool, runtime.Object, error) {
		ds := a.(k8stesting.UpdateAction).GetObject().(*appsv1.DaemonSet)
		is := turn{status: ds.Status}
		for len(creates) > 0 {
			is.creates = append(is.creates, <-creates)
		}
		for len(deletes) > 0 {
			is.deletes = append(is.deletes, <-deletes)
		}
		select {
		case told <- is:
		default:
		}
		return true, ds, nil
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := &patientPods{PodInformer: factory.Core().V1().Pods()}
	clock := clocktesting.NewFakeClock(looptest.Now)
	c, err := upstream.NewDaemonSetsController(ctx, factory.Apps().V1().DaemonSets(), factory.Apps().V1().ControllerRevisions(),
		pods, factory.Core().V1().Nodes(), client, flowcontrol.NewFakeBackOff(time.Second, time.Minute, clock))
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for _, told := range pods.told {
		<-told.Done()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx, 1)
	}()
	select {
	case does = <-told:
	case <-time.After(time.Minute):
		t.Error("Kubernetes' controller does not look at the daemon set")
	}
	cancel()
	<-ended
	factory.Shutdown()
	return does
}

// patientPods knows when its handlers have been told of all pods: Kubernetes' takes one that is going for one that it has just
// deleted.
type patientPods struct {
	coreinformers.PodInformer
	told []cache.DoneChecker
}

func (p *patientPods) Informer() cache.SharedIndexInformer {
	return patientInformer{p.PodInformer.Informer(), p}
}

type patientInformer struct {
	cache.SharedIndexInformer
	pods *patientPods
}

func (i patientInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	handler, err := i.SharedIndexInformer.AddEventHandler(h)
	if err == nil {
		i.pods.told = append(i.pods.told, handler.HasSyncedChecker())
	}
	return handler, err
}
