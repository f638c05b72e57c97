package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/scheduler"
	"lockstep/store"
	"lockstep/store/storebench"
	"lockstep/store/view"
)

// constraints are loads that a scheduler is measured with, besides pods that ask for nothing but room, with the least rates.
func constraints() []struct {
	name   string
	least  float64 // pods a second
	change func(*corev1.Pod)
} {
	term := func(p *corev1.Pod, key string) corev1.PodAffinityTerm {
		own := map[string]string{"app": p.Labels["app"]}
		return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: own}}
	}
	return []struct {
		name   string
		least  float64
		change func(*corev1.Pod)
	}{
		{"that keep away from their own host", 5000, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(p, corev1.LabelHostname)},
			}}
		}},
		{"spread over zones", 5000, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: term(p, "").LabelSelector,
			}}
		}},
		{"that prefer to be near their own", 5000, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
					Weight: 50, PodAffinityTerm: term(p, corev1.LabelTopologyZone),
				}},
			}}
		}},
	}
}

// schedule measures how many pending pods a second are bound, stored and seen in the view, against etcd's own rate for
// the same bytes, and how many of pods with constraints.
func schedule(ctx context.Context, n *node) (_ []Row, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	pods, nodes := n.size(10_000, 100), n.size(5000, 50)
	var rows []Row
	err = withStore(ctx, database.Client, storeOptions(), func(ctx context.Context, s *store.Store) error {
		if err := addNodes(ctx, s, nodes); err != nil {
			return err
		}
		rate := func(ctx context.Context, change func(*corev1.Pod)) (float64, error) {
			if err := addPending(ctx, s, pods, change); err != nil {
				return 0, err
			}
			return bindAll(ctx, s, pods)
		}
		ours, bound, err := alternate(ctx, n.times(5),
			func(ctx context.Context) (float64, error) { return rate(ctx, func(*corev1.Pod) {}) },
			func(ctx context.Context) (float64, error) { return storebench.PutRate(ctx, database.Dialled(), pods) })
		if err != nil {
			return err
		}
		name := fmt.Sprintf("scheduler, %d pods onto %d nodes, seen in the view", pods, nodes)
		rows = append(rows, reaching(name, "/s", ours, bound, 0.5))
		for _, c := range constraints() {
			var rates []float64
			for range n.times(3) {
				one, err := rate(ctx, c.change)
				if err != nil {
					return err
				}
				rates = append(rates, one)
			}
			slices.Sort(rates)
			rows = append(rows, atLeast(fmt.Sprintf("scheduler, %d pods %s", pods, c.name), "/s", rates[len(rates)/2], c.least))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(rows, takeUp(n.size(5000, 50), n.size(150_000, 5000))...), nil
}

// takeUp measures what a scheduler keeps of a cluster besides the view, and how long it takes to take it up.
func takeUp(nodes, pods int) []Row {
	var objects []kinds.Object
	for i := range nodes {
		objects = append(objects, benchNode(i))
	}
	for i := range pods {
		p := storebench.Pod(i)
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning} // the state reads no more
		objects = append(objects, p)
	}
	v := view.Of(objects...)
	objects = nil
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	runtime.ReadMemStats(&before)
	began := time.Now()
	state := scheduler.NewState(v)
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	runtime.KeepAlive(state)
	name := fmt.Sprintf("scheduler, %d nodes with %d pods, ", nodes, pods)
	return []Row{
		below(name+"kept beyond the view", "MiB", max(0, float64(after.HeapAlloc)-float64(before.HeapAlloc))/(1<<20), 300),
		below(name+"taken up at a start", "s", took.Seconds(), 2),
	}
}

func addNodes(ctx context.Context, s *store.Store, count int) error {
	var groups []store.Group
	for i := range count {
		n := benchNode(i)
		groups = append(groups, store.Group{{Key: kinds.KeyOf(n), Object: n}})
	}
	return storebench.Commit(ctx, s, groups)
}

func benchNode(i int) *corev1.Node {
	n := &corev1.Node{}
	n.Name = storebench.NodeName(i)
	n.Labels = map[string]string{corev1.LabelHostname: n.Name, corev1.LabelTopologyZone: fmt.Sprint("z", i%3)}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: resource.MustParse("110"),
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

// addPending makes the pods anew, or takes those of an earlier round from their nodes.
func addPending(ctx context.Context, s *store.Store, count int, change func(*corev1.Pod)) error {
	var groups []store.Group
	for i := range count {
		p := storebench.Pod(i)
		p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable}
		change(p)
		groups = append(groups, store.Group{{Key: kinds.KeyOf(p), Object: p, If: store.Anyway}})
	}
	return storebench.Commit(ctx, s, groups)
}

// bindAll runs a scheduler until the view has all pods bound, and returns its rate.
func bindAll(ctx context.Context, s *store.Store, pods int) (float64, error) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	changes := s.Subscribe("bench")
	defer changes.Close()
	began := time.Now()
	done := make(chan error, 1)
	running.Go(func() {
		done <- scheduler.New(scheduler.Options{Store: s, Commit: s, Events: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	})
	for bound := 0; bound < pods; {
		select {
		case batch, ok := <-changes.C:
			if !ok {
				return 0, errors.New("cannot follow the store: too many changes")
			}
			for _, c := range batch.Changes {
				if p, ok := c.New.(*corev1.Pod); ok && p.Spec.NodeName != "" && c.Old.(*corev1.Pod).Spec.NodeName == "" {
					bound++
				}
			}
		case err := <-done:
			return 0, fmt.Errorf("cannot schedule: the scheduler ended with %d bound: %w", bound, err)
		}
	}
	rate := float64(pods) / time.Since(began).Seconds()
	cancel()
	return rate, <-done
}
