package attachdetach

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Nodes returns the reconciler that says in nodes' status which volumes are attached to them and may be mounted: those that are about
// to be detached are not among them.
func Nodes() loop.Reconciler {
	node := kinds.For[*corev1.Node]()
	return loop.Reconciler{
		Name:      "volumesattached",
		Component: component,
		Owner:     node,
		Reads: []loop.Read{
			{Kind: kinds.For[*storagev1.VolumeAttachment](), How: "its node", Keys: func(_ *view.View, o kinds.Object) []kinds.Key {
				return []kinds.Key{node.Key("", o.(*storagev1.VolumeAttachment).Spec.NodeName)}
			}},
			{Kind: kinds.For[*corev1.PersistentVolume](), How: "wakes nothing: an attachment's volume stays what it is"},
		},
		Writes: []loop.Write{{Kind: node, Fields: []string{"status.volumesAttached"}}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			n, ok := v.Get(key).(*corev1.Node)
			if !ok {
				return loop.Decision{}, nil
			}
			return tell(v, n), nil
		},
	}
}

func tell(v *view.View, n *corev1.Node) (d loop.Decision) {
	var volumes []corev1.AttachedVolume
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		if a.Spec.NodeName != n.Name || !a.Status.Attached || a.DeletionTimestamp != nil {
			continue
		}
		pv, _ := view.Get[*corev1.PersistentVolume](v, "", kinds.AttachedVolume(a))
		if source := kinds.CSIOf(pv); source != nil {
			volumes = append(volumes, corev1.AttachedVolume{Name: kinds.CSIVolumeName(source)})
		}
	}
	slices.SortFunc(volumes, func(a, b corev1.AttachedVolume) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if !slices.Equal(volumes, n.Status.VolumesAttached) {
		changed := n.DeepCopy()
		changed.Status.VolumesAttached = volumes
		d.Status = changed
	}
	return d
}
