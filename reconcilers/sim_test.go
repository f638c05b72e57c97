package reconcilers

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller/daemon/util"
	clocktesting "k8s.io/utils/clock/testing"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/looptest"
	"lockstep/reconcilers/pods"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// sim is a cluster of which everything happens in one goroutine, in an order that a seed decides: the engine's turns,
// what nodes do with their pods, and writes of which the outcome is not told.
type sim struct {
	t     *testing.T
	rand  *rand.Rand
	clock simClock
	store *memory.Store
	step  *engine.Stepper
	// faults is how many of a hundred writes race with a node, or do not tell their outcome.
	faults int
	// broken is an image whose pods never become ready.
	broken string
	// check is called after every write.
	check func()
	// acts is what a node does when a write races with it; nil: kubelet.
	acts func() bool
	uids int
	// commits counts the engine's.
	commits int
	// stated are what a source states; what else is put is nobody's.
	stated map[kinds.Key]bool
}

// simClock is a clock on which a sleep ends at once, and has taken its time.
type simClock struct{ *clocktesting.FakeClock }

func (c simClock) After(d time.Duration) <-chan time.Time {
	ch := c.FakeClock.After(d)
	c.Step(d)
	return ch
}

func newSim(t *testing.T, seed uint64) *sim { return newSimWith(t, seed, Options{}) }

func newSimWith(t *testing.T, seed uint64, o Options) *sim {
	s := &sim{t: t, rand: rand.New(rand.NewPCG(seed, 7)), clock: simClock{clocktesting.NewFakeClock(looptest.Now)}}
	s.store = memory.NewWith(memory.Options{Default: strategy.Default, Now: s.clock.Now})
	s.stated = map[kinds.Key]bool{}
	o.Stated = func(_ *view.View, k kinds.Key) bool { return s.stated[k] }
	e := engine.New(All(o), engine.Options{
		Store: s.store, Commit: s, Events: s.store, Clock: s.clock, Seed: seed + 1, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	})
	s.step = engine.NewStepper(e)
	t.Cleanup(s.step.Close)
	for i := range 3 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		s.put(node)
	}
	s.beat()
	s.settle()
	return s
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("broke its rules")) || bytes.Contains(p, []byte("panic")) {
		l.t.Errorf("%s", p)
	}
	l.t.Logf("%s", p)
	return len(p), nil
}

// Commit is the engine's: with faults, a node may act just before, and an outcome may stay untold.
func (s *sim) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	if s.rand.IntN(100) < s.faults {
		if s.acts != nil {
			s.acts()
		} else {
			s.kubelet()
		}
	}
	for _, g := range groups {
		for i := range g {
			if o := g[i].Object; o != nil && o.GetUID() == "" {
				s.uids++ // by the seed, not by chance: order of deletion depends on it
				o.SetUID(types.UID(fmt.Sprintf("%04d-%d", s.rand.IntN(10000), s.uids)))
			}
		}
	}
	s.commits += len(groups)
	out := make([]store.Result, len(groups))
	for i, g := range groups {
		out[i] = s.store.Commit(ctx, g)[0]
		if s.check != nil {
			s.check()
		}
		if out[i].Err == nil && s.rand.IntN(100) < s.faults {
			out[i] = store.Result{Err: store.ErrUnknown}
		}
	}
	return out
}

// put writes an object as sync would: created through the strategies, or updated with the spec given.
func (s *sim) put(o kinds.Object) {
	s.t.Helper()
	o = o.DeepCopyObject().(kinds.Object)
	strategy.Default(o)
	old := s.store.View().Get(kinds.KeyOf(o))
	w := store.Write{Key: kinds.KeyOf(o), Object: o, If: store.Anyway, Reason: "test"}
	if old == nil {
		status := o
		if node, ok := o.(*corev1.Node); ok {
			status = node.DeepCopy()
		}
		if errs := strategy.PrepareCreate(o); len(errs) > 0 {
			s.t.Fatalf("%v: %v", w.Key, errs.ToAggregate())
		}
		if node, ok := o.(*corev1.Node); ok {
			node.Status = status.(*corev1.Node).Status
		}
	} else if errs := strategy.PrepareUpdate(o, old); len(errs) > 0 {
		s.t.Fatalf("%v: %v", w.Key, errs.ToAggregate())
	}
	s.write(w)
}

func (s *sim) write(w store.Write) {
	s.t.Helper()
	if r := s.store.Commit(context.Background(), store.Group{w})[0]; r.Err != nil {
		s.t.Fatalf("%v: %v", w.Key, r.Err)
	}
	if s.check != nil {
		s.check()
	}
}

func (s *sim) delete(k kinds.Key) {
	s.t.Helper()
	o := s.store.View().Get(k)
	changed, gone := strategy.Delete(o, s.clock.Now(), nil)
	if gone || changed != nil {
		s.write(store.Write{Key: k, Object: changed, If: store.Anyway, Reason: "test"})
	}
}

// serve renews the API server's lease.
func (s *sim) serve() {
	const name = "one"
	key := apiservers.Key(name)
	old, _ := s.store.View().Get(key).(*lease)
	renewed := apiservers.Lease(old, name, netip.MustParseAddrPort("192.0.2.1:6443"), looptest.Now, s.clock.Now())
	s.write(store.Write{Key: key, Object: renewed, If: store.Anyway, Reason: "it runs"})
}

// beat renews the nodes' heartbeats, and the API server's lease.
func (s *sim) beat() {
	s.serve()
	for node := range view.List[*corev1.Node](s.store.View(), "") {
		s.renew(node.Name)
	}
}

func (s *sim) renew(node string) {
	now := metav1.NewMicroTime(s.clock.Now())
	s.store.Renew(node, &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &now}})
}

// pass lets time pass in which only these nodes are heard of, and no pod changes; the reconcilers do what there is each second.
func (s *sim) pass(d time.Duration, nodes ...string) {
	for range int(d / time.Second) {
		s.clock.Step(time.Second)
		s.serve()
		for _, node := range nodes {
			s.renew(node)
		}
		for s.step.Step(context.Background()) {
		}
	}
}

// kubelet makes one random step of one random pod: binding it, starting it, ending it. It says whether there was one.
func (s *sim) kubelet() bool {
	var steps []func()
	for p := range view.List[*corev1.Pod](s.store.View(), "") {
		p := p.DeepCopy()
		save := func() { s.write(store.Write{Key: kinds.KeyOf(p), Object: p, If: store.Anyway, Reason: "node"}) }
		switch {
		case p.Spec.NodeName == "":
			steps = append(steps, func() {
				p.Spec.NodeName = fmt.Sprintf("n%d", s.rand.IntN(3))
				if node, err := util.GetTargetNodeName(&corev1.Pod{Spec: corev1.PodSpec{Affinity: p.Spec.Affinity}}); err == nil {
					p.Spec.NodeName = node
				}
				save()
			})
		case p.DeletionTimestamp != nil:
			steps = append(steps, func() { s.write(store.Write{Key: kinds.KeyOf(p), If: store.Anyway, Reason: "node"}) })
		case !podstatus.Ready(&p.Status) && p.Spec.Containers[0].Image != s.broken && !podstatus.Finished(&p.Status):
			steps = append(steps, func() { setReady(p, corev1.ConditionTrue, s.clock.Now()); save() })
		}
	}
	if len(steps) == 0 {
		return false
	}
	steps[s.rand.IntN(len(steps))]()
	return true
}

func setReady(p *corev1.Pod, status corev1.ConditionStatus, now time.Time) {
	p.Status.Phase = corev1.PodRunning
	if p.Status.StartTime == nil {
		p.Status.StartTime = &metav1.Time{Time: now}
	}
	p.Status.PodIP = "10.42.0.9"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.42.0.9"}}
	p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
		Type:               corev1.PodReady,
		Status:             status,
		LastTransitionTime: metav1.NewTime(now),
	})
}

// run makes n random steps.
func (s *sim) run(n int) {
	for range n {
		switch s.rand.IntN(10) {
		case 0:
			s.clock.Step(time.Duration(s.rand.IntN(2000)) * time.Millisecond)
			s.beat()
		case 1, 2, 3, 4:
			s.kubelet()
		default:
			s.step.Step(context.Background())
		}
	}
}

// turn is one of the reconcilers', and says whether they wrote anything in it, or only looked, as every few seconds whether a node has
// fallen silent.
func (s *sim) turn() (wrote, looked bool) {
	before := s.commits
	looked = s.step.Step(context.Background())
	return s.commits > before, looked
}

// settle goes on until nothing is left to do within the next seconds.
func (s *sim) settle() {
	s.t.Helper()
	quiet := 0
	for turns := 0; quiet < 8; turns++ {
		if turns > 200_000 {
			s.t.Fatal("the cluster does not settle")
		}
		wrote, looked := s.turn()
		if wrote || !looked && s.kubelet() {
			quiet = 0
			continue
		} else if looked {
			continue
		}
		quiet++
		s.clock.Step(time.Second)
		s.beat()
	}
}

func deploymentOf(name string, replicas int32, image string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	d.Spec.Replicas = &replicas
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: image}}
	return d
}

func (s *sim) get(name string) *appsv1.Deployment {
	s.t.Helper()
	d, ok := view.Get[*appsv1.Deployment](s.store.View(), "shop", name)
	if !ok {
		s.t.Fatalf("no deployment %s", name)
	}
	return d
}

// active returns the pods of a deployment that are not ending, and how many of them are available.
func (s *sim) active(d *appsv1.Deployment) (list []*corev1.Pod, available int) {
	v := s.store.View()
	for rs := range v.Controlled(d.UID) {
		for o := range v.Controlled(rs.GetUID()) {
			p := o.(*corev1.Pod)
			if !pods.Active(p) {
				continue
			}
			list = append(list, p)
			if ok, _ := podstatus.Available(&p.Status, time.Duration(d.Spec.MinReadySeconds)*time.Second, s.clock.Now()); ok {
				available++
			}
		}
	}
	return list, available
}

type lease = coordinationv1.Lease

func (s *sim) events() (list []string) {
	for e := range view.List[*corev1.Event](s.store.View(), "") {
		list = append(list, e.Reason+": "+e.Message)
	}
	return list
}
