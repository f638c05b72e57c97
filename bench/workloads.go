package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controller/daemon/util"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers"
	"lockstep/reconcilers/engine"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/storebench"
	"lockstep/store/view"
)

// workloads measures the control loops without any node: how soon one manifest's pods are in the store, and how many pods a
// second a roll-over makes and ends.
func workloads(ctx context.Context, n *node) ([]Row, error) {
	pods := n.size(1000, 20)
	var rows []Row
	for _, c := range []struct {
		kind string
		make func(name string, pods int32) kinds.Object
	}{
		{"Deployment", func(name string, pods int32) kinds.Object { return deployment(name, pods) }},
		{"Job", func(name string, pods int32) kinds.Object { return job(name, pods) }},
	} {
		ours, bound, err := n.createPods(ctx, pods, c.make)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("%s of %d pods, one write to all pods seen in the view", c.kind, pods)
		rows = append(rows, below(name, "s", float64(pods)/ours, 0.15), reaching(name+", a second", "/s", ours, bound, 0.4))
	}
	for _, c := range []struct {
		kind  string
		nodes int
		set   kinds.Object
	}{
		{"StatefulSet of 300, Parallel, 10 % at once", 0, statefulSet("db", int32(n.size(300, 10)), intstr.FromString("10%"))},
		{"DaemonSet of 1000 nodes, 10 % at once", n.size(1000, 10), daemonSet("agent", intstr.FromString("10%"))},
	} {
		rate, err := repeat(ctx, n.times(3), func(ctx context.Context) (float64, error) { return rollOver(ctx, c.set, c.nodes) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, atLeast(c.kind+", pods written by the engine alone", "/s", rate, 5000))
	}
	return rows, nil
}

// createPods measures how many pods a second the loops make of one object in a store on etcd, against etcd's own rate for the
// same bytes.
func (n *node) createPods(ctx context.Context, pods int, made func(name string, pods int32) kinds.Object) (ours, bound float64, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	err = withStore(ctx, database.Client, storeOptions(), func(ctx context.Context, s *store.Store) error {
		return withEngine(ctx, s, s, func(ctx context.Context) (err error) {
			round := 0
			ours, bound, err = alternate(ctx, n.times(10),
				func(ctx context.Context) (float64, error) {
					round++
					return createRate(ctx, s, made(fmt.Sprint("web-", round), int32(pods)), pods)
				},
				func(ctx context.Context) (float64, error) { return storebench.PutRate(ctx, database.Dialled(), pods) })
			return err
		})
	})
	return ours, bound, err
}

// createRate writes one object and counts until the view has its pods.
func createRate(ctx context.Context, s *store.Store, o kinds.Object, pods int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	changes := s.Subscribe("bench")
	defer changes.Close()
	time.Sleep(pause) // what the round before has left is done
	began := time.Now()
	if err := put(ctx, s, o); err != nil {
		return 0, err
	}
	for seen := 0; seen < pods; {
		batch, err := next(ctx, changes)
		if err != nil {
			return 0, err
		}
		for _, c := range batch {
			if p, ok := c.New.(*corev1.Pod); ok && c.Old == nil && p.Labels["app"] == o.GetName() {
				seen++
			}
		}
	}
	return float64(pods) / time.Since(began).Seconds(), nil
}

// rollOver rolls a set over in a store in memory, where every pod is ready and gone as soon as it shall be. It returns how many
// pods a second were made and ended by the engine.
func rollOver(ctx context.Context, set kinds.Object, nodes int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s := memory.NewWith(memory.Options{Default: strategy.Default})
	for i := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: storebench.NodeName(i)}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if err := put(ctx, s, node); err != nil {
			return 0, err
		}
	}
	counted := &counter{Committer: s}
	return rate, withEngine(ctx, s, counted, func(ctx context.Context) error {
		nodes := instantNodes{s, s.Subscribe("nodes")}
		defer nodes.changes.Close()
		set := set.DeepCopyObject().(kinds.Object)
		if err := put(ctx, s, set); err != nil {
			return err
		}
		if err := nodes.until(ctx, func() bool { return rolled(s.View(), set) }); err != nil {
			return fmt.Errorf("cannot start %v: %w", kinds.KeyOf(set), err)
		}
		older := s.View().Get(kinds.KeyOf(set))
		newer := older.DeepCopyObject().(kinds.Object)
		templateOf(newer).Spec.Containers[0].Image = "registry.example/next:2"
		if errs := strategy.PrepareUpdate(newer, older); len(errs) > 0 {
			return fmt.Errorf("cannot change %v: %w", kinds.KeyOf(newer), errs.ToAggregate())
		}
		before, began := counted.pods.Load(), time.Now()
		if r := s.Commit(ctx, store.Group{{Key: kinds.KeyOf(newer), Object: newer, If: store.Anyway}})[0]; r.Err != nil {
			return fmt.Errorf("cannot change %v: %w", kinds.KeyOf(newer), r.Err)
		}
		if err := nodes.until(ctx, func() bool { return rolled(s.View(), newer) }); err != nil {
			return fmt.Errorf("cannot roll %v over: %w", kinds.KeyOf(set), err)
		}
		rate = float64(counted.pods.Load()-before) / time.Since(began).Seconds()
		return nil
	})
}

// rolled says whether all of a set's pods have the template of its newest generation and are ready.
func rolled(v *view.View, set kinds.Object) bool {
	switch o := v.Get(kinds.KeyOf(set)).(type) {
	case *appsv1.StatefulSet:
		return o.Status.ObservedGeneration == set.GetGeneration() && o.Status.ReadyReplicas == *o.Spec.Replicas &&
			o.Status.UpdatedReplicas == *o.Spec.Replicas
	case *appsv1.DaemonSet:
		return o.Status.ObservedGeneration == set.GetGeneration() && o.Status.DesiredNumberScheduled > 0 &&
			o.Status.NumberReady == o.Status.DesiredNumberScheduled && o.Status.UpdatedNumberScheduled == o.Status.DesiredNumberScheduled
	}
	return false
}

// instantNodes have every pod ready, and gone, as soon as they hear of it.
type instantNodes struct {
	store   *memory.Store
	changes *store.Subscription
}

func (n instantNodes) until(ctx context.Context, done func() bool) error {
	for !done() {
		batch, err := next(ctx, n.changes)
		if err != nil {
			return err
		}
		var groups []store.Group
		for _, c := range batch {
			p, ok := c.New.(*corev1.Pod)
			switch {
			case !ok:
			case p.DeletionTimestamp != nil:
				groups = append(groups, store.Group{{Key: kinds.KeyOf(p), If: kinds.Revision(p)}})
			case !podstatus.Ready(&p.Status):
				p := p.DeepCopy()
				if node, err := util.GetTargetNodeName(p); err == nil {
					p.Spec.NodeName = node
				} else {
					p.Spec.NodeName = storebench.NodeName(0)
				}
				p.Status.Phase = corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{
					Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
				}}
				groups = append(groups, store.Group{{Key: kinds.KeyOf(p), Object: p, If: kinds.Revision(c.New)}})
			}
		}
		n.store.Commit(ctx, groups...) // one that has changed meanwhile is heard of again
	}
	return nil
}

func next(ctx context.Context, changes *store.Subscription) ([]view.Change, error) {
	select {
	case batch, ok := <-changes.C:
		if !ok {
			return nil, errors.New("cannot follow the store: too many changes")
		}
		return batch.Changes, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// counter counts the pods that are written through it.
type counter struct {
	store.Committer
	pods atomic.Int64
}

func (c *counter) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	results := c.Committer.Commit(ctx, groups...)
	for i, g := range groups {
		for _, w := range g {
			if w.Key.Resource == "pods" && results[i].Err == nil {
				c.pods.Add(1)
			}
		}
	}
	return results
}

// withEngine runs f while all control loops run.
func withEngine(ctx context.Context, s store.Backend, commit store.Committer, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running errgroup.Group
	running.Go(func() error {
		return engine.New(reconcilers.All(reconcilers.Options{}), engine.Options{
			Store: s, Commit: commit, Events: s, Log: slog.New(slog.DiscardHandler),
		}).Run(ctx)
	})
	err := put(ctx, s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	if err == nil {
		err = f(ctx)
	}
	cancel()
	return errors.Join(err, running.Wait())
}

// put creates an object as a source's is created.
func put(ctx context.Context, s store.Committer, o kinds.Object) error {
	status := o.DeepCopyObject()
	strategy.Default(o)
	if errs := strategy.PrepareCreate(o); len(errs) > 0 {
		return fmt.Errorf("cannot make %v: %w", kinds.KeyOf(o), errs.ToAggregate())
	}
	if node, ok := o.(*corev1.Node); ok {
		node.Status = status.(*corev1.Node).Status
	}
	if r := s.Commit(ctx, store.Group{{Key: kinds.KeyOf(o), Object: o}})[0]; r.Err != nil {
		return fmt.Errorf("cannot make %v: %w", kinds.KeyOf(o), r.Err)
	}
	return nil
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

// template is of pods of about 2 kB stored, as storebench's.
func template(name string) corev1.PodTemplateSpec {
	like := storebench.Pod(0).Spec
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: like.Containers},
	}
}

// templateOf is the template of a set's pods.
func templateOf(set kinds.Object) *corev1.PodTemplateSpec {
	if o, ok := set.(*appsv1.DaemonSet); ok {
		return &o.Spec.Template
	}
	return &set.(*appsv1.StatefulSet).Spec.Template
}

func deployment(name string, pods int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: meta(name), Spec: appsv1.DeploymentSpec{
		Replicas: &pods, Selector: selector(name), Template: template(name),
	}}
}

func job(name string, pods int32) *batchv1.Job {
	o := &batchv1.Job{ObjectMeta: meta(name), Spec: batchv1.JobSpec{Completions: &pods, Parallelism: &pods, Template: template(name)}}
	o.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return o
}

func statefulSet(name string, pods int32, atOnce intstr.IntOrString) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: meta(name), Spec: appsv1.StatefulSetSpec{
		Replicas: &pods, Selector: selector(name), Template: template(name), PodManagementPolicy: appsv1.ParallelPodManagement,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &atOnce}},
	}}
}

func daemonSet(name string, atOnce intstr.IntOrString) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: meta(name), Spec: appsv1.DaemonSetSpec{Selector: selector(name), Template: template(name),
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &atOnce}},
	}}
}
