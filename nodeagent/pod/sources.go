package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

// envSources fetches what a container's environment refers to.
func (n *Node) envSources(ctx context.Context, o *corev1.Pod, c *corev1.Container) (spec.Sources, error) {
	s := spec.Sources{ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{},
		Services: n.Cluster.Services(ctx, o.Namespace)}
	only := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace}, Spec: corev1.PodSpec{Containers: []corev1.Container{*c}}}
	for ref := range pods.References(only) {
		var err error
		if ref.Resource == pods.Secrets {
			if s.Secrets[ref.Name], err = n.Cluster.Secret(ctx, ref.Namespace, ref.Name); err != nil {
				delete(s.Secrets, ref.Name)
			}
		} else if s.ConfigMaps[ref.Name], err = n.Cluster.ConfigMap(ctx, ref.Namespace, ref.Name); err != nil {
			delete(s.ConfigMaps, ref.Name)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return s, fmt.Errorf("cannot read %s: %w", ref.Name, err)
		}
	}
	return s, nil
}

// fileKeys reads the variables that a container has from files of the pod's volumes. A file that is absent has none, as one
// that lacks a key.
func fileKeys(c *corev1.Container, vols map[string]volumes.Mounted) (map[spec.FileKey]string, error) {
	found, left := map[spec.FileKey]string{}, volumes.MaxEnvFiles
	for _, e := range c.Env {
		if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
			continue
		}
		r := e.ValueFrom.FileKeyRef
		volume, ok := vols[r.VolumeName]
		if !ok {
			return nil, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", r.VolumeName)
		}
		value, err := volumes.EnvKey(volume, r.Path, r.Key, &left)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		found[spec.FileKey{Volume: r.VolumeName, Path: r.Path, Key: r.Key}] = value
	}
	return found, nil
}

// volumeSources is where volumes get their content from.
func (n *Node) volumeSources(ctx context.Context, from Content) volumes.Sources {
	return volumes.Sources{
		ConfigMap: func(ns, name string) (*corev1.ConfigMap, error) { return from.ConfigMap(ctx, ns, name) },
		Secret:    func(ns, name string) (*corev1.Secret, error) { return from.Secret(ctx, ns, name) },
		Persistent: func(pod *corev1.Pod, v *corev1.Volume) (pods.Persistent, error) {
			return n.persistent(ctx, pod, v)
		},
		Token: func(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
			return n.Cluster.Token(ctx, pod, p)
		},
		Allocatable: n.Facts().Allocatable,
	}
}

// persistent finds what a claim of the pod stands for.
func (n *Node) persistent(ctx context.Context, o *corev1.Pod, v *corev1.Volume) (pods.Persistent, error) {
	claim, err := n.Cluster.PersistentVolumeClaim(ctx, o.Namespace, kinds.ClaimOf(o, v))
	if err != nil {
		return pods.Persistent{}, pods.Unclaimed(o, v, fmt.Errorf("failed to fetch PVC from API server: %w", err))
	}
	name, err := pods.Bound(o, v, claim)
	if err != nil {
		return pods.Persistent{}, err
	}
	volume, err := n.Cluster.PersistentVolume(ctx, name)
	if err != nil {
		return pods.Persistent{}, pods.Unclaimed(o, v, fmt.Errorf("failed to fetch PV %s from API server: %w", name, err))
	}
	labels, err := n.Cluster.NodeLabels(ctx)
	if err != nil {
		return pods.Persistent{}, err
	}
	return pods.Claimed(o, v, claim, volume, labels)
}
