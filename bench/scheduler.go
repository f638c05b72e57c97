package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds"
	"lockstep/reconcilers/scheduler"
	"lockstep/store"
	"lockstep/store/storebench"
)

// schedule measures how many pending pods a second are bound, stored and seen in the view, against etcd's own rate for
// the same bytes.
func schedule(ctx context.Context, n *node) (_ []Row, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	pods, nodes := n.size(10_000, 100), n.size(5000, 50)
	var ours, bound float64
	err = withStore(ctx, database.Client, func(ctx context.Context, s *store.Store) (err error) {
		if err := addNodes(ctx, s, nodes); err != nil {
			return err
		}
		ours, bound, err = alternate(ctx, n.times(5),
			func(ctx context.Context) (float64, error) {
				if err := addPending(ctx, s, pods); err != nil {
					return 0, err
				}
				return bindAll(ctx, s, pods)
			},
			func(ctx context.Context) (float64, error) { return storebench.PutRate(ctx, database.Dialled(), pods) })
		return err
	})
	if err != nil {
		return nil, err
	}
	return []Row{beside(fmt.Sprintf("scheduler, %d pods onto %d nodes, seen in the view", pods, nodes), "/s", ours, bound)}, nil
}

func addNodes(ctx context.Context, s *store.Store, count int) error {
	var groups []store.Group
	for i := range count {
		n := &corev1.Node{}
		n.Name = fmt.Sprintf("node-%04d", i)
		n.Labels = map[string]string{corev1.LabelHostname: n.Name, corev1.LabelTopologyZone: fmt.Sprint("z", i%3)}
		n.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"),
			corev1.ResourcePods: resource.MustParse("110"),
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		groups = append(groups, store.Group{{Key: kinds.KeyOf(n), Object: n}})
	}
	return storebench.Commit(ctx, s, groups)
}

// addPending makes the pods anew, or takes those of an earlier round from their nodes.
func addPending(ctx context.Context, s *store.Store, count int) error {
	var groups []store.Group
	for i := range count {
		p := storebench.Pod(i)
		p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable}
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
