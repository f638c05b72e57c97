// Package attachdetach says which volumes of CSI drivers are attached to which nodes.
//
// A VolumeAttachment is wanted for as long as a pod on its node mounts the volume, and until the node has let go of it. Who calls the
// driver goes by it. All attachments of a volume are decided together, so that one of a single node is never given to two.
package attachdetach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// component signs the events as Kubernetes' controller does.
const component = "attachdetach-controller"

// unneeded is the annotation of an attachment with the time since when no pod needs it, though its node still uses the volume.
const unneeded = "lockstep.dev/unneeded-since"

// drain is how long a node that is not ready may use a volume that no pod there needs: Kubernetes' maxWaitForUnmountDuration.
const drain = 6 * time.Minute

// New returns the reconciler of volumes' attachments.
func New() loop.Reconciler {
	pv, attachment := kinds.For[*corev1.PersistentVolume](), kinds.For[*storagev1.VolumeAttachment]()
	return loop.Reconciler{
		Name:      "attachdetach",
		Component: component,
		Owner:     pv,
		Reads: []loop.Read{
			{Kind: attachment, How: "its volume", Keys: attached},
			{Kind: kinds.For[*corev1.Pod](), How: "the volumes of its claims", Keys: mounted, Changed: podChanged},
			{Kind: kinds.For[*corev1.PersistentVolumeClaim](), How: "its volume", Keys: claimed,
				Changed: func(old, new kinds.Object) bool {
					return old == nil || new == nil || old.(*corev1.PersistentVolumeClaim).Spec.VolumeName !=
						new.(*corev1.PersistentVolumeClaim).Spec.VolumeName
				}},
			{Kind: kinds.For[*storagev1.CSIDriver](), How: "its volumes", Keys: driven},
			{Kind: kinds.For[*corev1.Node](), How: "the volumes that are attached to it, and those of its pods", Keys: onNode,
				Changed: nodeChanged},
		},
		Writes: []loop.Write{{Kind: attachment, Create: true, Delete: true, Fields: []string{"metadata.annotations"}}},
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			return decide(v, key.Name, now), nil
		},
	}
}

func volumeKey(name string) kinds.Key { return kinds.For[*corev1.PersistentVolume]().Key("", name) }

func attached(_ *view.View, o kinds.Object) []kinds.Key {
	if name := kinds.AttachedVolume(o.(*storagev1.VolumeAttachment)); name != "" {
		return []kinds.Key{volumeKey(name)}
	}
	return nil
}

func claimed(_ *view.View, o kinds.Object) []kinds.Key {
	if name := o.(*corev1.PersistentVolumeClaim).Spec.VolumeName; name != "" {
		return []kinds.Key{volumeKey(name)}
	}
	return nil
}

func mounted(v *view.View, o kinds.Object) (keys []kinds.Key) {
	p := o.(*corev1.Pod)
	if p.Spec.NodeName == "" {
		return nil
	}
	for i := range p.Spec.Volumes {
		c, ok := view.Get[*corev1.PersistentVolumeClaim](v, p.Namespace, kinds.ClaimOf(p, &p.Spec.Volumes[i]))
		if !ok || c.Spec.VolumeName == "" {
			continue
		}
		if pv, _ := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName); kinds.CSIOf(pv) != nil {
			keys = append(keys, kinds.KeyOf(pv))
		}
	}
	return keys
}

func driven(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		if source := kinds.CSIOf(pv); source != nil && source.Driver == o.GetName() {
			keys = append(keys, kinds.KeyOf(pv))
		}
	}
	return keys
}

func onNode(v *view.View, o kinds.Object) (keys []kinds.Key) {
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		if a.Spec.NodeName == o.GetName() {
			keys = append(keys, attached(v, a)...)
		}
	}
	for p := range v.PodsOnNode(o.GetName()) {
		keys = append(keys, mounted(v, p)...)
	}
	return keys
}

func podChanged(old, new kinds.Object) bool {
	if old == nil || new == nil {
		return true
	}
	was, is := old.(*corev1.Pod), new.(*corev1.Pod)
	return was.Spec.NodeName != is.Spec.NodeName || podstatus.Finished(&was.Status) != podstatus.Finished(&is.Status)
}

func nodeChanged(old, new kinds.Object) bool {
	if old == nil || new == nil {
		return true
	}
	was, is := old.(*corev1.Node), new.(*corev1.Node)
	return kinds.NodeReady(was) != kinds.NodeReady(is) || kinds.OutOfService(was) != kinds.OutOfService(is) ||
		!slices.Equal(was.Status.VolumesInUse, is.Status.VolumesInUse)
}

// decide decides about the attachments of the volume of that name, which may be gone.
func decide(v *view.View, name string, now time.Time) (d loop.Decision) {
	pv, _ := view.Get[*corev1.PersistentVolume](v, "", name)
	source := kinds.CSIOf(pv)
	needed := map[string][]*corev1.Pod{}
	if source != nil {
		if driver, _ := view.Get[*storagev1.CSIDriver](v, "", source.Driver); kinds.Attaches(driver) {
			needed = users(v, pv)
		}
	}
	has := map[string]bool{}
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		if kinds.AttachedVolume(a) != name {
			continue
		}
		has[a.Spec.NodeName] = true
		keep(&d, v, a, source, len(needed[a.Spec.NodeName]) > 0, now)
	}
	for _, node := range inTurn(needed) {
		switch others := elsewhere(has, node); {
		case has[node]:
		case len(others) > 0 && !everywhere(pv):
			d.Events = append(d.Events, taken(pv, needed, node, others)...)
		default:
			has[node] = true
			d.Wants = append(d.Wants, loop.Want{Object: attachment(pv, node), Reason: "a pod on " + node + " mounts its volume"})
		}
	}
	return d
}

// users are the pods that mount a volume, by their nodes, which are there.
func users(v *view.View, pv *corev1.PersistentVolume) map[string][]*corev1.Pod {
	out := map[string][]*corev1.Pod{}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return out
	}
	c, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	if !ok || c.UID != ref.UID || c.Spec.VolumeName != pv.Name {
		return out
	}
	for p := range view.List[*corev1.Pod](v, c.Namespace) {
		if p.Spec.NodeName == "" || podstatus.Finished(&p.Status) || !mounts(p, c.Name) {
			continue
		}
		if _, there := view.Get[*corev1.Node](v, "", p.Spec.NodeName); there {
			out[p.Spec.NodeName] = append(out[p.Spec.NodeName], p)
		}
	}
	return out
}

func mounts(p *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return kinds.ClaimOf(p, &v) == claim })
}

// keep decides about an attachment that there is.
func keep(d *loop.Decision, v *view.View, a *storagev1.VolumeAttachment, source *corev1.CSIPersistentVolumeSource, needed bool,
	now time.Time) {
	since, waits := a.Annotations[unneeded]
	if a.DeletionTimestamp != nil {
		return
	}
	if needed {
		if waits {
			d.Wants = append(d.Wants, loop.Want{Object: noted(a, ""), Reason: "a pod needs it again"})
		}
		return
	}
	node, there := view.Get[*corev1.Node](v, "", a.Spec.NodeName)
	switch {
	case !there:
		d.Drops = append(d.Drops, loop.DropOf(a, "its node is gone"))
		return
	case kinds.OutOfService(node):
		d.Drops = append(d.Drops, loop.DropOf(a, "its node is out of service"))
		return
	case source == nil || !kinds.UsesVolume(node, kinds.CSIVolumeName(source)):
		d.Drops = append(d.Drops, loop.DropOf(a, "no pod on its node needs it"))
		return
	}
	from, err := time.Parse(time.RFC3339, since)
	if !waits || err != nil {
		from = now
		d.Wants = append(d.Wants, loop.Want{Object: noted(a, now.UTC().Format(time.RFC3339)),
			Reason: "no pod on its node needs it, and the node still uses the volume"})
	}
	switch due := from.Add(drain); {
	case kinds.NodeReady(node): // it lets go of it in its time
	case now.Before(due):
		d.Again = earlier(d.Again, due)
	default:
		d.Drops = append(d.Drops, loop.DropOf(a, "its node, which is not ready, has not let go of it in time"))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// noted is an attachment that says since when nobody needs it; empty: somebody does.
func noted(a *storagev1.VolumeAttachment, since string) *storagev1.VolumeAttachment {
	a = a.DeepCopy()
	delete(a.Annotations, unneeded)
	if since != "" {
		metav1.SetMetaDataAnnotation(&a.ObjectMeta, unneeded, since)
	}
	return a
}

// inTurn are the nodes of a volume's pods, those of the oldest pods first.
func inTurn(needed map[string][]*corev1.Pod) []string {
	oldest := func(node string) time.Time {
		return slices.MinFunc(needed[node], func(a, b *corev1.Pod) int {
			return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		}).CreationTimestamp.Time
	}
	return slices.SortedFunc(maps.Keys(needed), func(a, b string) int {
		return cmp.Or(oldest(a).Compare(oldest(b)), strings.Compare(a, b))
	})
}

// elsewhere are the other nodes that a volume is attached to.
func elsewhere(has map[string]bool, node string) (others []string) {
	for other := range has {
		if other != node {
			others = append(others, other)
		}
	}
	slices.Sort(others)
	return others
}

// everywhere says that a volume may be attached to several nodes, or does not say.
func everywhere(pv *corev1.PersistentVolume) bool {
	return len(pv.Spec.AccessModes) == 0 || slices.ContainsFunc(pv.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

// taken tells the pods of a node why they wait for a volume that other nodes have.
func taken(pv *corev1.PersistentVolume, needed map[string][]*corev1.Pod, node string, others []string) (out []loop.Event) {
	var names []string
	for _, other := range others {
		for _, p := range needed[other] {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	text := "Waiting for detach for volume %q Volume is already exclusively attached to one node, waiting on detach before it can be " +
		"attached to another node"
	if len(names) > 0 {
		text = "Waiting for detach for volume %q Volume is already used by pod(s) " + strings.Join(names, ", ")
	}
	for _, p := range needed[node] {
		out = append(out, loop.Event{About: p, Type: corev1.EventTypeWarning, Reason: "FailedAttachVolume",
			Message: fmt.Sprintf(text, pv.Name)})
	}
	return out
}

func attachment(pv *corev1.PersistentVolume, node string) *storagev1.VolumeAttachment {
	source := kinds.CSIOf(pv)
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: kinds.AttachmentName(source, node)},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: source.Driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv.Name},
		},
	}
}
