package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// startMany measures from the save of a Deployment's replicas until all its pods are Ready in the API, against the
// same containers and networks by the libraries alone, as many at a time as suits them best.
func startMany(ctx context.Context, n *node) (_ []Row, err error) {
	w, err := n.workbench(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	if err := w.write(fmt.Sprintf(deploymentManifest, 1, false)); err != nil {
		return nil, err
	}
	if err := w.settled(ctx); err != nil {
		return nil, err
	}
	most := func(times float64) func(name, unit string, value, bound float64) Row {
		return func(name, unit string, value, bound float64) Row { return within(name, unit, value, bound, times) }
	}
	var rows []Row
	for _, c := range []struct {
		pods, rounds int
		token        bool // which the bound's containers have not
		name         string
		row          func(name, unit string, value, bound float64) Row
	}{
		{n.size(50, 4), n.times(10), false, "", most(1.5)},
		{n.size(50, 4), n.times(5), true, " with their account's token", beside},
		{n.size(100, 6), n.times(10), false, "", most(1.15)},
	} {
		best, err := bestParallel(ctx, []int{2, 4, 8}, func(ctx context.Context, parallel int) (float64, error) {
			return n.bound(ctx, c.pods, parallel)
		})
		if err != nil {
			return nil, err
		}
		ours, bound, err := alternate(ctx, c.rounds,
			func(ctx context.Context) (float64, error) { return w.scale(ctx, c.pods, c.token) },
			func(ctx context.Context) (float64, error) { return n.bound(ctx, c.pods, best) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, c.row(fmt.Sprintf("%d pods%s, file save to all Ready in the API", c.pods, c.name), "s", ours, bound))
	}
	return rows, nil
}

// bestParallel tries how many at a time suit the libraries.
func bestParallel(ctx context.Context, tries []int, measure func(ctx context.Context, parallel int) (float64, error)) (int, error) {
	best, least := 0, 0.0
	for _, parallel := range tries {
		took, err := measure(ctx, parallel)
		if err != nil {
			return 0, err
		}
		if best == 0 || took < least {
			best, least = parallel, took
		}
	}
	return best, nil
}

// scale measures from none to so many pods, and takes them down again.
func (w *workbench) scale(ctx context.Context, pods int, token bool) (float64, error) {
	if _, err := w.replicas(ctx, 0, token); err != nil {
		return 0, err
	}
	took, err := w.replicas(ctx, pods, token)
	if err != nil {
		return 0, err
	}
	_, err = w.replicas(ctx, 0, token)
	return took, err
}

// replicas saves the Deployment and measures until exactly so many pods exist and all are Ready.
func (w *workbench) replicas(ctx context.Context, want int, token bool) (float64, error) {
	return w.deploy(ctx, fmt.Sprintf(deploymentManifest, want, token), want)
}

// deploy does so for a manifest of so many pods.
func (w *workbench) deploy(ctx context.Context, manifest string, want int) (float64, error) {
	list, err := w.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot list pods: %w", err)
	}
	ready := map[string]bool{}
	for _, p := range list.Items {
		ready[p.Name] = isReady(watch.Event{Object: &p})
	}
	changes, err := w.kube.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return 0, fmt.Errorf("cannot watch pods: %w", err)
	}
	defer changes.Stop()
	time.Sleep(pause)
	began := time.Now()
	if err := w.write(manifest); err != nil {
		return 0, err
	}
	if len(ready) == want {
		return 0, nil
	}
	end, err := see(ctx, changes, func(e watch.Event) bool {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return false
		}
		if e.Type == watch.Deleted {
			delete(ready, p.Name)
		} else {
			ready[p.Name] = isReady(e)
		}
		up := 0
		for _, r := range ready {
			if r {
				up++
			}
		}
		return up == want && len(ready) == want
	})
	return end.Sub(began).Seconds(), err
}
