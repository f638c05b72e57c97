package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/storebench"
	"lockstep/store/view"
)

// lowPerNode pods of low priority fill a node; one of high priority has the room of three, as in kube-scheduler's own measure.
const lowPerNode = 4

// preemptionsLeast is what kube-scheduler's own measure asks of it (570), rounded.
const preemptionsLeast = 500

// preempt measures how many pods of high priority a second are bound in the place of others, which are ended for them, against
// etcd's own rate for as many writes: three victims, a nomination and a binding each.
func preempt(ctx context.Context, n *node) (_ []Row, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	count := n.size(1000, 50)
	const writes = lowPerNode + 1
	var ours, bound float64
	err = withStore(ctx, database.Client, storeOptions(), func(ctx context.Context, s *store.Store) (err error) {
		if err := addNodes(ctx, s, count); err != nil {
			return err
		}
		ours, bound, err = alternate(ctx, n.times(3),
			func(ctx context.Context) (float64, error) {
				if err := addRivals(ctx, s, count); err != nil {
					return 0, err
				}
				return bindAll(ctx, s, count)
			},
			func(ctx context.Context) (float64, error) {
				rate, err := storebench.PutRate(ctx, database.Dialled(), count*writes)
				return rate / writes, err
			})
		return err
	})
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("scheduler, %d preemptions of %d pods, seen in the view", count, lowPerNode-1)
	return []Row{atLeast(name, "/s", ours, preemptionsLeast), beside(name+", beside puts", "/s", ours, bound)}, nil
}

// addRivals fills as many nodes with pods that end at once, and has one pod wait for each; those of an earlier round go.
func addRivals(ctx context.Context, s *store.Store, count int) error {
	var groups []store.Group
	for p := range view.List[*corev1.Pod](s.View(), "") {
		groups = append(groups, store.Group{{Key: kinds.KeyOf(p), If: store.Anyway}})
	}
	if err := storebench.Commit(ctx, s, groups); err != nil {
		return err
	}
	groups = nil
	add := func(i int, kind, node, cpu string, priority int32) {
		p := storebench.Pod(i)
		p.Name = strings.Replace(p.Name, "web", kind, 1)
		p.Spec.NodeName, p.Spec.Priority, p.Spec.TerminationGracePeriodSeconds = node, &priority, new(int64(0))
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
		if node == "" {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable}
		}
		groups = append(groups, store.Group{{Key: kinds.KeyOf(p), Object: p, If: store.Anyway}})
	}
	for i := range count {
		for j := range lowPerNode {
			add(i*lowPerNode+j, "low", fmt.Sprintf("node-%04d", i), "8", 0)
		}
	}
	for i := range count {
		add(i, "high", "", "24", 1000)
	}
	return storebench.Commit(ctx, s, groups)
}
