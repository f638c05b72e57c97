package localpath

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Provisioner returns the reconciler that makes volumes for claims.
func Provisioner() loop.Reconciler {
	claim := kinds.For[*corev1.PersistentVolumeClaim]()
	return loop.Reconciler{
		Name:      "localpath",
		Component: component,
		Owner:     claim,
		Reads: []loop.Read{
			{Kind: kinds.For[*storagev1.StorageClass](), How: "the claims that wait for a directory", Keys: waiting},
			{Kind: kinds.For[*corev1.Node](), How: "the claims that wait for a directory", Keys: waiting, Changed: nodeChanged},
			{Kind: kinds.For[*corev1.PersistentVolume](), How: "the claim that it is named by", Keys: claimed,
				Changed: func(_, new kinds.Object) bool { return new == nil }},
		},
		Writes: []loop.Write{
			{Kind: kinds.For[*corev1.PersistentVolume](), Create: true},
			{Kind: claim, Fields: []string{"metadata.annotations"}, Shared: map[string]string{"metadata.annotations": loop.OwnNode}},
		},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			c, ok := v.Get(key).(*corev1.PersistentVolumeClaim)
			if !ok || !waits(c) {
				return loop.Decision{}, nil
			}
			return provision(v, c), nil
		},
	}
}

// claimed is the claim that a volume is for.
func claimed(_ *view.View, o kinds.Object) []kinds.Key {
	pv := o.(*corev1.PersistentVolume)
	if ref := pv.Spec.ClaimRef; ref != nil && kinds.LocalPathOf(pv) != "" {
		return []kinds.Key{kinds.For[*corev1.PersistentVolumeClaim]().Key(ref.Namespace, ref.Name)}
	}
	return nil
}

// provision decides about a claim that has no volume yet.
func provision(v *view.View, c *corev1.PersistentVolumeClaim) (d loop.Decision) {
	class, _ := view.Get[*storagev1.StorageClass](v, "", volume.GetPersistentVolumeClaimClass(c))
	if class == nil || class.Provisioner != kinds.LocalPath {
		return d
	}
	selected := c.Annotations[volume.AnnSelectedNode]
	told := c.Annotations[volume.AnnStorageProvisioner] == kinds.LocalPath
	if kinds.BindsLate(class) && selected == "" || !kinds.BindsLate(class) && !told {
		return d // its first pod has no node yet, or the binder may have a volume for it
	}
	name := "pvc-" + string(c.UID)
	if pv, there := view.Get[*corev1.PersistentVolume](v, "", name); there {
		if !volume.IsVolumeBoundToClaim(pv, c) {
			return failed(c, class, fmt.Sprintf("persistentvolumes %q already exists", name))
		}
		return d // the binder's turn
	}
	if cause := kinds.LocalPathRefusal(c, class); cause != "" {
		return failed(c, class, cause)
	}
	node, there := view.Get[*corev1.Node](v, "", selected)
	switch {
	case selected == "":
		if node = emptiest(v); node == nil {
			return failed(c, class, "no node is ready for it")
		}
	case !there:
		d.Wants = []loop.Want{{Object: withoutNode(c), Reason: "the selected node is gone, another one is to be selected"}}
		d.Events = []loop.Event{warning("ProvisioningFailed", fmt.Sprintf("node %q not found", selected))}
		return d
	}
	if cause := unable(node); cause != "" {
		return failed(c, class, cause)
	}
	done := normal("ProvisioningSucceeded", "Successfully provisioned volume "+name)
	refused := warning("ProvisioningFailed", failure(class, "{cause}"))
	pv := directory(name, c, class, node)
	if has := less(node, pv); has != "" {
		pv.Annotations[kinds.LocalPathLarge] = has
		d.Events = []loop.Event{warning("VolumeLargerThanDisk", fmt.Sprintf("Volume %s has a capacity of %s, which is larger than %s "+
			"in all: nothing is kept free for it", name, pv.Spec.Capacity.Storage(), has))}
	}
	d.Wants = []loop.Want{{Object: pv, Reason: "made on " + node.Name, Done: &done, Failed: &refused}}
	return d
}

// less says what a node has on its disk in all where that is less than a volume; empty: it has that much, or does not say.
func less(n *corev1.Node, pv *corev1.PersistentVolume) string {
	disk, told := n.Status.Capacity[corev1.ResourceEphemeralStorage]
	if !told || pv.Spec.Capacity.Storage().Cmp(disk) <= 0 {
		return ""
	}
	return fmt.Sprintf("the %s that node %s has", resource.NewQuantity(disk.Value(), resource.BinarySI), n.Name)
}

// failed decides about a claim that gets no volume now. The node that was selected for it is taken away, which tells the scheduler, but
// not before the binder has left the claim to this provisioner: that it has been is seen of the claim from then on.
func failed(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, cause string) (d loop.Decision) {
	if c.Annotations[volume.AnnSelectedNode] != "" {
		if c.Annotations[volume.AnnStorageProvisioner] != kinds.LocalPath {
			return d
		}
		d.Wants = []loop.Want{{Object: withoutNode(c), Reason: "it cannot be provisioned there: " + cause}}
	}
	d.Events = []loop.Event{warning("ProvisioningFailed", failure(class, cause))}
	return d
}

// withoutNode is a claim for which no node is selected.
func withoutNode(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	c = c.DeepCopy()
	delete(c.Annotations, volume.AnnSelectedNode)
	return c
}

func failure(class *storagev1.StorageClass, cause string) string {
	return fmt.Sprintf("failed to provision volume with StorageClass %q: %s", class.Name, cause)
}

// longestDir bounds what a node says of its directory, with room for a volume's name; the kernel's bound of a path is 4,096 bytes.
const longestDir = 3800

// unable says why a node cannot have volumes; empty: it can.
func unable(n *corev1.Node) string {
	dir := n.Annotations[kinds.LocalPath]
	switch {
	case n.DeletionTimestamp != nil:
		return fmt.Sprintf("node %q is being deleted", n.Name)
	case dir == "":
		return fmt.Sprintf("node %q has no directory for volumes", n.Name)
	case !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" || len(dir) > longestDir:
		return fmt.Sprintf("the directory for volumes of node %q is no clean absolute path", n.Name)
	case n.Labels[corev1.LabelHostname] == "":
		return fmt.Sprintf("node %q has no label %s", n.Name, corev1.LabelHostname)
	}
	return ""
}

// emptiest is the node with the fewest such volumes among those that pods could run on, the first by name of several; nil: there is
// none. It is for claims that wait for no pod.
func emptiest(v *view.View) *corev1.Node {
	volumes := map[string]int{}
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		volumes[kinds.LocalPathOf(pv)]++
	}
	var nodes []*corev1.Node
	for n := range view.List[*corev1.Node](v, "") {
		kept := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule })
		if unable(n) == "" && kinds.NodeReady(n) && !n.Spec.Unschedulable && !kept {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	return slices.MinFunc(nodes, func(a, b *corev1.Node) int {
		return cmp.Or(cmp.Compare(volumes[a.Name], volumes[b.Name]), cmp.Compare(a.Name, b.Name))
	})
}

// directory is the volume of a claim on a node, of mode Block a file in the place of a directory.
func directory(name string, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, n *corev1.Node) *corev1.PersistentVolume {
	policy, mode := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeFilesystem
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	if c.Spec.VolumeMode != nil {
		mode = *c.Spec.VolumeMode
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{kinds.LocalPathNode: n.Name}, Finalizers: []string{kinds.LocalPath},
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: kinds.LocalPath},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage].DeepCopy(),
			},
			AccessModes: slices.Clone(c.Spec.AccessModes), VolumeMode: &mode,
			PersistentVolumeReclaimPolicy: policy, StorageClassName: class.Name,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path.Join(n.Annotations[kinds.LocalPath], name)},
			},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{n.Labels[corev1.LabelHostname]},
				}},
			}}}},
		},
	}
}
