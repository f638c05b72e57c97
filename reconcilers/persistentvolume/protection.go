package persistentvolume

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// ClaimProtection returns the reconciler that keeps a claim for as long as there is a pod with a node that mounts it.
func ClaimProtection() loop.Reconciler {
	claim := kinds.For[*corev1.PersistentVolumeClaim]()
	return loop.Reconciler{
		Name:      "pvcprotection",
		Component: "pvc-protection-controller",
		Owner:     claim,
		Reads: []loop.Read{{
			Kind: kinds.For[*corev1.Pod](), How: "the claims that it mounts and that are being deleted", Keys: leaving,
			Changed: func(old, new kinds.Object) bool {
				was, is := old.GetDeletionGracePeriodSeconds(), new.GetDeletionGracePeriodSeconds()
				return is != nil && *is == 0 && (was == nil || *was != 0)
			},
		}},
		Writes: protects(claim, nil),
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (d loop.Decision, _ error) {
			c, ok := v.Get(key).(*corev1.PersistentVolumeClaim)
			if !ok {
				return d, nil
			}
			used := func() bool {
				for p := range view.List[*corev1.Pod](v, c.Namespace) {
					if p.Spec.NodeName != "" && keeps(p, c) {
						return true
					}
				}
				return false
			}
			return protect(c, kinds.ClaimProtection, used), nil
		},
	}
}

// keeps says that a pod mounts a claim. What the claim is made for lets go of it once its node is done with it, and of one that is not
// its own at once.
func keeps(p *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	done := p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return kinds.ClaimOf(p, &v) == c.Name && (v.Ephemeral == nil || !done && ephemeral.VolumeIsForPod(p, c) == nil)
	})
}

// leaving are the claims of a pod that only wait for it.
func leaving(v *view.View, o kinds.Object) []kinds.Key {
	return claimsOf(v, o.(*corev1.Pod), func(c *corev1.PersistentVolumeClaim) bool { return c.DeletionTimestamp != nil })
}

// VolumeProtection returns the reconciler that keeps a volume for as long as it is bound.
func VolumeProtection() loop.Reconciler {
	pv := kinds.For[*corev1.PersistentVolume]()
	return loop.Reconciler{
		Name:      "pvprotection",
		Component: "pv-protection-controller",
		Owner:     pv,
		Writes:    protects(pv, map[string]string{"metadata.finalizers": loop.OwnFinalizer}),
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (d loop.Decision, _ error) {
			pv, ok := v.Get(key).(*corev1.PersistentVolume)
			if !ok {
				return d, nil
			}
			return protect(pv, kinds.VolumeProtection, func() bool { return pv.Status.Phase == corev1.VolumeBound }), nil
		},
	}
}

func protects(kind *kinds.Kind, shared map[string]string) []loop.Write {
	return []loop.Write{{Kind: kind, Fields: []string{"metadata.finalizers"}, Shared: shared}}
}

// protect takes the finalizer from what is being deleted once it is not used, and gives it to what has none.
func protect(o kinds.Object, finalizer string, used func() bool) (d loop.Decision) {
	has := slices.Contains(o.GetFinalizers(), finalizer)
	changed := o.DeepCopyObject().(kinds.Object)
	switch going := o.GetDeletionTimestamp() != nil; {
	case going && has && !used():
		changed.SetFinalizers(slices.DeleteFunc(changed.GetFinalizers(), func(f string) bool { return f == finalizer }))
		d.Wants = []loop.Want{{Object: changed, Reason: "it is being deleted, and nothing uses it"}}
	case !going && !has:
		changed.SetFinalizers(append(changed.GetFinalizers(), finalizer))
		d.Wants = []loop.Want{{Object: changed, Reason: "what uses it keeps it"}}
	}
	return d
}
