package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// perFolder is how many manifests lie in one folder.
const perFolder = 100

// manifest is the path and text of one of many manifests, and the name of its object.
func manifest(i int, color string) (path, text, object string) {
	object = fmt.Sprintf("settings-%05d", i)
	return filepath.Join(fmt.Sprintf("team-%03d", i/perFolder), object+".yaml"),
		fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {color: %s}\n", object, color), object
}

// writeManifests writes so many manifests below a folder.
func writeManifests(folder string, count int) error {
	for i := range count {
		path, text, _ := manifest(i, "blue")
		path = filepath.Join(folder, path)
		if i%perFolder == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fmt.Errorf("cannot write manifests: %w", err)
			}
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot write manifests: %w", err)
		}
	}
	return nil
}

// folderChange measures from the save of one file of many until its object is in the store, as a watch sees it.
func folderChange(ctx context.Context, n *node) (_ []Row, err error) {
	folder, err := n.folder()
	if err != nil {
		return nil, err
	}
	files := n.size(10_000, 200)
	if err := writeManifests(folder, files); err != nil {
		return nil, err
	}
	c, err := n.start(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.down()) }()
	round := 0
	took, err := repeat(ctx, n.times(10), func(ctx context.Context) (float64, error) {
		round++
		color := fmt.Sprint("c", round)
		path, text, object := manifest(round*7919%files, color)
		stored, err := c.watchFor(ctx, object, color)
		if err != nil {
			return 0, err
		}
		time.Sleep(pause)
		began := time.Now()
		if err := os.WriteFile(filepath.Join(folder, path), []byte(text), 0o644); err != nil {
			return 0, err
		}
		at, err := stored()
		return at.Sub(began).Seconds(), err
	})
	if err != nil {
		return nil, err
	}
	return []Row{below(fmt.Sprintf("one-line change in a folder of %d manifests to stored", files), "s", took, 0.5)}, nil
}

// watchFor returns a function that returns when the object had the color first.
func (c *cluster) watchFor(ctx context.Context, object, color string) (func() (time.Time, error), error) {
	w, err := c.kube.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + object})
	if err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", object, err)
	}
	return func() (time.Time, error) {
		defer w.Stop()
		return see(ctx, w, func(e watch.Event) bool {
			m, ok := e.Object.(*corev1.ConfigMap)
			return ok && m.Data["color"] == color
		})
	}, nil
}
