package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// probedManifest takes the number of pods, each of which is asked by HTTP every 10 s, as Kubernetes does by default.
const probedManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: default}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: "` + imageName + `"
        command: [/idle, serve]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 10}
`

// probed measures what a node with many pods costs while nothing happens but their probes: the agent with what it starts, and the
// control plane, which shares its process.
func probed(ctx context.Context, n *node) (_ []Row, err error) {
	w, err := n.workbench(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	settle := time.Duration(n.size(settling, 0)) * time.Second
	pods, length := n.size(100, 4), n.size(60, 1)
	without, _, err := w.idle(ctx, settle, time.Duration(n.size(10, 1))*time.Second)
	if err != nil {
		return nil, err
	}
	if _, err := w.deploy(ctx, fmt.Sprintf(probedManifest, pods), pods); err != nil {
		return nil, err
	}
	with, cores, err := w.idle(ctx, settle, time.Duration(length)*time.Second)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("lockstep up, %d pods with an HTTP probe every 10 s, ", pods)
	return []Row{
		below(name+"resident beyond none", "MiB", max(with-without, 0), 60),
		below(name+"CPU over a minute", "% of a core", 100*cores, 3),
	}, nil
}
