package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/baseline"
)

const (
	// keep is in every folder, so that none is ever without manifests, which would hold its revision.
	keep = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: keep, namespace: default}\n"

	podManifest = `apiVersion: v1
kind: Pod
metadata: {name: one, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "` + imageName + `"}]
`
	// deploymentManifest takes the number of pods, and whether they have their account's token, which is a volume.
	deploymentManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: default}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      automountServiceAccountToken: %t
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "` + imageName + `"}]
`
	// pause lies between rounds, longer than what is debounced: people do not save files faster.
	pause = 300 * time.Millisecond
)

// workbench is a cluster that follows a folder with one object in it.
type workbench struct {
	*cluster
	folder string
}

func (n *node) workbench(ctx context.Context) (*workbench, error) {
	folder, err := n.folder()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "keep.yaml"), []byte(keep), 0o644); err != nil {
		return nil, fmt.Errorf("cannot prepare the folder: %w", err)
	}
	c, err := n.start(ctx, folder)
	if err != nil {
		return nil, err
	}
	return &workbench{c, folder}, nil
}

func (w *workbench) file() string { return filepath.Join(w.folder, "load.yaml") }

// write saves the file that is measured; an empty text removes it.
func (w *workbench) write(text string) error {
	if text == "" {
		return os.Remove(w.file())
	}
	return os.WriteFile(w.file(), []byte(text), 0o644)
}

// startOne measures from a file's save until its container runs, against the same container and network by the
// libraries alone.
func startOne(ctx context.Context, n *node) (_ []Row, err error) {
	w, err := n.workbench(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	var rows []Row
	for _, c := range []struct{ name, text string }{{"pod", podManifest}, {"deployment", fmt.Sprintf(deploymentManifest, 1, true)}} {
		if _, err := w.round(ctx, c.text, nil); err != nil { // the image is unpacked once
			return nil, err
		}
		var ready []float64
		ours, bound, err := alternate(ctx, n.times(12),
			func(ctx context.Context) (float64, error) { return w.round(ctx, c.text, &ready) },
			func(ctx context.Context) (float64, error) { return n.bound(ctx, 1, 1) })
		if err != nil {
			return nil, err
		}
		rows = append(rows,
			within("file save to container running, "+c.name, "s", ours, bound, 3),
			within("file save to Ready in the API, "+c.name, "s", median(ready), bound, 1.6))
	}
	return rows, nil
}

// round saves a manifest of one pod, measures until its container runs, notes when it is Ready in the API, and removes
// it again.
func (w *workbench) round(ctx context.Context, text string, ready *[]float64) (float64, error) {
	return w.roundLeaving(ctx, text, "", ready)
}

// roundLeaving leaves the rest of the manifest where it is.
func (w *workbench) roundLeaving(ctx context.Context, text, rest string, ready *[]float64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pods, err := w.kube.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot watch pods: %w", err)
	}
	defer pods.Stop()
	started, failed := w.node.client.EventService().Subscribe(ctx, `topic=="/tasks/start",namespace=="lockstep"`)
	time.Sleep(pause)
	began := time.Now()
	if err := w.write(text); err != nil {
		return 0, err
	}
	ran, err := first(ctx, started, failed)
	if err != nil {
		return 0, err
	}
	seen, err := see(ctx, pods, func(e watch.Event) bool { return isReady(e) })
	if err != nil {
		return 0, err
	}
	if ready != nil {
		*ready = append(*ready, seen.Sub(began).Seconds())
	}
	if err := w.write(rest); err != nil {
		return 0, err
	}
	_, err = see(ctx, pods, func(e watch.Event) bool { return e.Type == watch.Deleted })
	return ran.Sub(began).Seconds(), err
}

func first(ctx context.Context, started <-chan *events.Envelope, failed <-chan error) (time.Time, error) {
	select {
	case <-started:
		return time.Now(), nil
	case err := <-failed:
		return time.Time{}, fmt.Errorf("cannot hear of containerd's starts: %w", err)
	case <-ctx.Done():
		return time.Time{}, errors.New("cannot see a container start: none did")
	}
}

func isReady(e watch.Event) bool {
	p, ok := e.Object.(*corev1.Pod)
	return ok && p.DeletionTimestamp == nil && podstatus.Ready(&p.Status)
}

// bound measures the same containers and CNI ADDs by the libraries alone, so many at a time.
func (n *node) bound(ctx context.Context, containers, parallel int) (float64, error) {
	o, err := n.baseline(parallel, "/idle")
	if err != nil {
		return 0, err
	}
	took, end, err := baseline.Start(ctx, o, containers)
	if end != nil {
		err = errors.Join(err, end())
	}
	return took.Seconds(), err
}

func (n *node) baseline(parallel int, command ...string) (baseline.Options, error) {
	dir := filepath.Join(n.dir, "bound")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return baseline.Options{}, fmt.Errorf("cannot prepare the bound: %w", err)
	}
	return baseline.Options{
		Client: n.client, Namespace: name, Image: imageName, Snapshotter: snapshotter, Command: command, Dir: dir,
		BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}, Subnet: "10.66.0.0/24", Parallel: parallel,
	}, nil
}
