package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/nodeagent/baseline"
)

const jobManifest = `apiVersion: batch/v1
kind: Job
metadata: {name: many-%d, namespace: default}
spec:
  completions: %d
  parallelism: 20
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers: [{name: main, image: "` + imageName + `", command: [/idle, end]}]
`

// runJob measures from the save of an Indexed Job until the API has it complete, against the same containers by the libraries
// alone, as many at a time as suits them best.
func runJob(ctx context.Context, n *node) (_ []Row, err error) {
	completions := n.size(500, 10)
	w, err := n.workbench(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	best, err := bestParallel(ctx, []int{2, 4, 8, 20}, func(ctx context.Context, parallel int) (float64, error) {
		return n.runBound(ctx, n.size(60, 4), parallel)
	})
	if err != nil {
		return nil, err
	}
	round := 0
	ours, bound, err := alternate(ctx, n.times(3),
		func(ctx context.Context) (float64, error) {
			round++
			return w.job(ctx, fmt.Sprintf(jobManifest, round, completions))
		},
		func(ctx context.Context) (float64, error) { return n.runBound(ctx, completions, best) })
	if err != nil {
		return nil, err
	}
	return []Row{within(fmt.Sprintf("Job of %d indexes, 20 at a time, file save to Complete", completions), "s", ours, bound, 1.5)}, nil
}

// runBound measures containers that end at once by the libraries alone, so many at a time.
func (n *node) runBound(ctx context.Context, containers, parallel int) (float64, error) {
	o, err := n.baseline(parallel, "/idle", "end")
	if err != nil {
		return 0, err
	}
	took, err := baseline.Run(ctx, o, containers)
	return took.Seconds(), err
}

// job saves a Job, measures until it is complete, and removes it with its pods.
func (w *workbench) job(ctx context.Context, text string) (float64, error) {
	jobs, err := w.kube.BatchV1().Jobs("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot watch jobs: %w", err)
	}
	defer jobs.Stop()
	time.Sleep(pause)
	began := time.Now()
	if err := w.write(text); err != nil {
		return 0, err
	}
	complete, err := see(ctx, jobs, func(e watch.Event) bool {
		j, ok := e.Object.(*batchv1.Job)
		return ok && j.Status.CompletionTime != nil
	})
	if err != nil {
		return 0, err
	}
	if err := w.write(""); err != nil {
		return 0, err
	}
	return complete.Sub(began).Seconds(), w.until(ctx, "the pods to go", func(ctx context.Context) error {
		pods, err := w.kube.CoreV1().Pods(corev1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("there are %d yet", len(pods.Items))
		}
		return err
	})
}
