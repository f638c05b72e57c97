// Package ephemeral makes the claims of volumes that live as long as their pod.
package ephemeral

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler of ephemeral volumes. Their claims go with the pod that owns them.
func New() loop.Reconciler {
	claim := kinds.For[*corev1.PersistentVolumeClaim]()
	return loop.Reconciler{
		Name:      "ephemeral",
		Component: "ephemeral_volume",
		Reads: []loop.Read{
			{
				Kind: kinds.For[*corev1.Pod](), How: "itself, where it has ephemeral volumes", Keys: having,
				Changed: func(_, _ kinds.Object) bool { return false }, // its volumes stay as they are
			},
			{
				Kind: claim, How: "when it is gone: the pods that want one of its name", Keys: wanting,
				Changed: func(_, _ kinds.Object) bool { return false },
			},
		},
		Writes: []loop.Write{{Kind: claim, Create: true}},
		Decide: decide,
	}
}

func having(_ *view.View, o kinds.Object) []kinds.Key {
	p := o.(*corev1.Pod)
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Ephemeral != nil && p.DeletionTimestamp == nil {
			return []kinds.Key{kinds.KeyOf(p)}
		}
	}
	return nil
}

// wanting are the pods that want a claim which is gone.
func wanting(v *view.View, o kinds.Object) (keys []kinds.Key) {
	if v.Get(kinds.KeyOf(o)) != nil {
		return nil
	}
	for p := range view.List[*corev1.Pod](v, o.GetNamespace()) {
		for i := range p.Spec.Volumes {
			if vol := &p.Spec.Volumes[i]; vol.Ephemeral != nil && kinds.ClaimOf(p, vol) == o.GetName() {
				keys = append(keys, kinds.KeyOf(p))
			}
		}
	}
	return keys
}

func decide(v *view.View, key kinds.Key, _ time.Time) (d loop.Decision, _ error) {
	p, ok := v.Get(key).(*corev1.Pod)
	if !ok || p.DeletionTimestamp != nil {
		return d, nil
	}
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		if vol.Ephemeral == nil {
			continue
		}
		name := kinds.ClaimOf(p, vol)
		claim, there := view.Get[*corev1.PersistentVolumeClaim](v, p.Namespace, name)
		if !there {
			d.Wants = append(d.Wants, loop.Want{Object: claimOf(p, vol), Reason: "volume " + vol.Name + " of pod " + p.Name,
				Failed: failed(p, vol, "create PVC "+name+": {cause}")})
			continue
		}
		if err := ephemeral.VolumeIsForPod(p, claim); err != nil {
			d.Events = append(d.Events, *failed(p, vol, err.Error()))
			break // As Kubernetes: what is after it waits, too.
		}
	}
	return d, nil
}

func failed(p *corev1.Pod, vol *corev1.Volume, cause string) *loop.Event {
	return &loop.Event{
		About: p, Type: corev1.EventTypeWarning, Reason: "FailedBinding", Message: fmt.Sprintf("ephemeral volume %s: %s", vol.Name, cause),
	}
}

func claimOf(p *corev1.Pod, vol *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := vol.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: kinds.ClaimOf(p, vol), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(p)},
		},
		Spec: template.Spec,
	}
}
