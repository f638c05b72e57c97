package scheduler

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// The resources that rows about volumes look at.
const (
	claims  = "persistentvolumeclaims"
	pvs     = "persistentvolumes"
	classes = "storageclasses"
)

// volumeKinds are the kinds that rows about volumes look at.
func volumeKinds() []schema.GroupResource {
	return []schema.GroupResource{{Resource: claims}, {Resource: pvs}, {Group: storagev1.GroupName, Resource: classes}}
}

// mount is a claim that a pod mounts.
type mount struct {
	claim kinds.Key
	pod   kinds.Key // whose claim it is, where it was made for that pod; else empty
	uid   types.UID
}

func (m *mount) ephemeral() bool { return m.pod.Name != "" }

// mountsOf are the claims that a pod mounts, in the order of its volumes, each once.
func mountsOf(p *corev1.Pod) (out []mount) {
	for i := range p.Spec.Volumes {
		name := kinds.ClaimOf(p, &p.Spec.Volumes[i])
		if name == "" {
			continue
		}
		m := mount{claim: kinds.Key{Resource: claims, Namespace: p.Namespace, Name: name}}
		if p.Spec.Volumes[i].Ephemeral != nil {
			m.pod, m.uid = kinds.KeyOf(p), p.UID
		}
		if !slices.ContainsFunc(out, func(o mount) bool { return o.claim == m.claim }) {
			out = append(out, m)
		}
	}
	return out
}

// volumes is what rows know of the volumes that a pod mounts.
type volumes struct {
	single  []kinds.Key // claims that one pod alone may mount
	bound   []placing   // where the volumes of bound claims can be
	missing bool        // a bound claim has no volume
	late    []late      // claims that get their volumes where the pod goes, the smallest first
	zones   []volumeZone
	driven  []handle // volumes of CSI drivers

	reached map[int]reach // by the nodes' places, while so many volumes are
	taken   int
}

// bar is why a pod finds no node whatever nodes there are, and which changes may mend that besides those of its claims.
type bar struct {
	text  string
	wakes Changes
}

// Error is the reason, as kube-scheduler words it.
func (b *bar) Error() string { return b.text }

func barred(wakes Changes, format string, args ...any) error {
	return &bar{text: fmt.Sprintf(format, args...), wakes: wakes}
}

// surveyVolumes looks at the claims and volumes of the demand's pods. It fails with a bar, in the order and words in which
// kube-scheduler's plugins refuse a pod before they are asked of nodes.
func (d *demand) surveyVolumes(c *cluster) error {
	mounts := d.load.mounts
	if len(mounts) == 0 {
		return nil
	}
	if err := d.volumes.readSingles(mounts, c); err != nil {
		return err
	}
	d.volumes.readHandles(mounts, c)
	if err := d.volumes.readClaims(mounts, c); err != nil {
		return err
	}
	return d.volumes.readZones(mounts, c)
}

func (c *cluster) claim(key kinds.Key) *corev1.PersistentVolumeClaim {
	o, _ := c.objects[key].(*corev1.PersistentVolumeClaim)
	return o
}

func (c *cluster) volume(name string) *corev1.PersistentVolume {
	o, _ := c.objects[kinds.Key{Resource: pvs, Name: name}].(*corev1.PersistentVolume)
	return o
}

func (c *cluster) class(name string) *storagev1.StorageClass {
	o, _ := c.objects[kinds.Key{Group: storagev1.GroupName, Resource: classes, Name: name}].(*storagev1.StorageClass)
	return o
}

// users counts the pods with a node that mount a claim.
func (c *cluster) users(claim kinds.Key) int64 { return c.used[claim] + c.using[claim] }

// objectChanges says what another state of an object means for pods that wait; nil: it is not there.
func objectChanges(old, next kinds.Object) Changes {
	if next == nil {
		old, next = nil, old
	}
	switch next := next.(type) {
	case *corev1.PersistentVolumeClaim:
		if old, ok := old.(*corev1.PersistentVolumeClaim); ok && sameClaim(old, next) {
			return 0
		}
		return ClaimChanged
	case *corev1.PersistentVolume:
		if old, ok := old.(*corev1.PersistentVolume); ok && sameVolume(old, next) {
			return 0
		}
		return VolumeChanged
	case *storagev1.StorageClass:
		if old, ok := old.(*storagev1.StorageClass); ok && sameClass(old, next) {
			return 0
		}
		return ClassChanged
	}
	return ObjectChanged
}

func sameClaim(a, b *corev1.PersistentVolumeClaim) bool {
	return a.UID == b.UID && a.Status.Phase == b.Status.Phase && a.DeletionTimestamp.Equal(b.DeletionTimestamp) &&
		maps.Equal(a.Annotations, b.Annotations) && apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func sameVolume(a, b *corev1.PersistentVolume) bool {
	return a.UID == b.UID && a.Status.Phase == b.Status.Phase && a.DeletionTimestamp.Equal(b.DeletionTimestamp) &&
		maps.Equal(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func sameClass(a, b *storagev1.StorageClass) bool {
	return a.Provisioner == b.Provisioner && apiequality.Semantic.DeepEqual(a.VolumeBindingMode, b.VolumeBindingMode) &&
		apiequality.Semantic.DeepEqual(a.AllowedTopologies, b.AllowedTopologies)
}

// lostNode says that a claim waited for a volume on a node, and whoever was to make it there gave up.
func lostNode(old, new kinds.Object) bool {
	before, was := old.(*corev1.PersistentVolumeClaim)
	after, is := new.(*corev1.PersistentVolumeClaim)
	return was && is && before.UID == after.UID && volume.IsDelayBindingProvisioning(before) &&
		!volume.IsDelayBindingProvisioning(after) && after.Spec.VolumeName == ""
}

// fullyBound says that a claim has its volume, and both know.
func fullyBound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && metav1.HasAnnotation(c.ObjectMeta, volume.AnnBindCompleted)
}
