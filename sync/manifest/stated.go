package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"lockstep/kinds"
	"lockstep/kinds/ingress"
)

// serverMetadata is metadata that only a server sets: it stands in manifests that were read out of a cluster.
var serverMetadata = []string{
	"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"selfLink", "managedFields",
}

// serverAnnotations are written by clients' and controllers' bookkeeping; stating them would be a quarrel with it.
var serverAnnotations = []string{
	corev1.LastAppliedConfigAnnotation, "lockstep.dev/source", "lockstep.dev/file", "lockstep.dev/commit", "lockstep.dev/author",
	kinds.AnnotationScores, kinds.LocalPathMade, kinds.LocalPathKept, kinds.LocalPathLarge, ingress.NotServed,
	kinds.AutoscalerMemory,
}

// serverFinalizers are those that the cluster itself sets, by the kind of what it holds back. Others are refused.
var serverFinalizers = map[*kinds.Kind][]string{
	kinds.For[*corev1.PersistentVolumeClaim](): {kinds.ClaimProtection},
	kinds.For[*corev1.PersistentVolume]():      {kinds.VolumeProtection, kinds.LocalPath, kinds.CSIMade},
}

// dropServerSet removes what a manifest does not state even where it stands in it.
func dropServerSet(k *kinds.Kind, n *node) {
	switch {
	case k == kinds.For[*corev1.Node]() && n.get("status").get("capacity") != nil:
		status := n.get("status")
		status.fields = slices.DeleteFunc(status.fields, func(e entry) bool { return e.name != "capacity" })
	case k.Status:
		n.drop("status")
	}
	metadata := n.get("metadata")
	metadata.drop(serverMetadata...)
	metadata.get("annotations").drop(serverAnnotations...)
	if metadata != nil {
		metadata.fields = slices.DeleteFunc(metadata.fields, func(e entry) bool {
			return e.name == "finalizers" && onlyOf(e.value, serverFinalizers[k])
		})
	}
}

// onlyOf says that a node is a list that has nothing but some of the values; an empty one states nothing, and is one.
func onlyOf(n *node, values []string) bool {
	return n.shape == list && !slices.ContainsFunc(n.items, func(item *node) bool {
		return item.shape != text || !slices.Contains(values, item.text)
	})
}

// statedIn returns the part of o that the tree states, as JSON.
func statedIn(n *node, o kinds.Object) (json.RawMessage, error) {
	full, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", kinds.KeyOf(o), err)
	}
	stated := project(n, full).(map[string]any)
	if secret, ok := o.(*corev1.Secret); ok {
		foldStringData(stated, n.get("stringData"), secret)
	}
	if !kinds.Of(o).Namespaced {
		if metadata, ok := stated["metadata"].(map[string]any); ok {
			delete(metadata, "namespace")
		}
	}
	return json.Marshal(stated)
}

// project returns the values of full at the places where the tree has some. A place that full leaves out has Go's zero
// value, and keeps the tree's own.
func project(n *node, full any) any {
	switch n.shape {
	case mapping:
		out := make(map[string]any, len(n.fields))
		values, _ := full.(map[string]any)
		for _, e := range n.fields {
			value, found := values[e.name]
			switch {
			case found && e.value.shape == null && value == nil, !found && e.value.shape == null:
			case found:
				out[e.name] = project(e.value, value)
			default:
				out[e.name] = bare(e.value)
			}
		}
		return out
	case list:
		out := make([]any, len(n.items))
		values, _ := full.([]any)
		for i, item := range n.items {
			if i < len(values) {
				out[i] = project(item, values[i])
			} else {
				out[i] = bare(item)
			}
		}
		return out
	}
	return full
}

// bare returns the tree's own value.
func bare(n *node) any {
	var v any
	if json.Unmarshal(n.appendJSON(nil), &v) != nil {
		return nil
	}
	return v
}

// foldStringData moves what stringData states into data, as Kubernetes does when it stores a secret.
func foldStringData(stated map[string]any, stringData *node, secret *corev1.Secret) {
	delete(stated, "stringData")
	if stringData == nil || len(stringData.fields) == 0 {
		return
	}
	data, _ := stated["data"].(map[string]any)
	if data == nil {
		data = map[string]any{}
		stated["data"] = data
	}
	for _, e := range stringData.fields {
		data[e.name] = base64.StdEncoding.EncodeToString(secret.Data[e.name])
	}
}
