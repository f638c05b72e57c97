// Package pods is what the controllers of pods share: which are theirs, which count, and what a new one is.
package pods

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Active says that the pod runs or will run, and nobody has asked it to stop.
func Active(p *corev1.Pod) bool { return !podstatus.Finished(&p.Status) && p.DeletionTimestamp == nil }

// Terminating says that the pod was asked to stop and has not ended.
func Terminating(p *corev1.Pod) bool {
	return !podstatus.Finished(&p.Status) && p.DeletionTimestamp != nil
}

// HeldBy returns the Job that has still to count how a pod ends; nil: the pod may be removed.
func HeldBy(v *view.View, p *corev1.Pod) *batchv1.Job {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "Job" {
		return nil
	}
	if j, ok := v.ByUID(ref.UID).(*batchv1.Job); ok && kinds.JobHolds(j, p) {
		return j
	}
	return nil
}

// Claims are the pods of an owner, those that are its own by where they are in their lives.
type Claims struct {
	loop.Claims[*corev1.Pod]
	Active, Terminating, Ended []*corev1.Pod
	// Selector is the owner's.
	Selector labels.Selector

	adopted map[*corev1.Pod]bool
}

// Claim returns the pods that the owner has, or should have, by its selector. One that cannot be read is an error that
// waits for another.
func Claim(v *view.View, owner kinds.Object, s *metav1.LabelSelector) (Claims, error) {
	selector, err := loop.Selector(owner, s)
	if err != nil {
		return Claims{}, err
	}
	c := Claims{Claims: loop.Claim(v, owner, selector, Active), Selector: selector, adopted: map[*corev1.Pod]bool{}}
	for _, p := range c.Adopted {
		c.adopted[p] = true
	}
	for _, p := range c.Mine {
		switch {
		case Active(p):
			c.Active = append(c.Active, p)
		case Terminating(p):
			c.Terminating = append(c.Terminating, p)
		default:
			c.Ended = append(c.Ended, p)
		}
	}
	return c, nil
}

// Others wants the pods that are not the owner's any more as they are.
func (c Claims) Others() []loop.Want {
	return append(c.Releases(), loop.Keep("ended or ending", c.Kept...)...)
}

// Rest wants the pods that are not active, or not the owner's any more, as they are.
func (c Claims) Rest() []loop.Want {
	wants := append(c.Others(), loop.Keep("ending", c.Terminating...)...)
	return append(wants, loop.Keep("ended", c.Ended...)...)
}

// Keep wants pods of the owner as they are, the adopted ones with their new owner, which is reason enough.
func (c Claims) Keep(reason string, mine ...*corev1.Pod) []loop.Want {
	wants := make([]loop.Want, len(mine))
	for i, p := range mine {
		wants[i] = loop.Want{Object: p, Reason: reason}
		if c.adopted[p] {
			wants[i].Reason = "adopted: the selector matches"
		}
	}
	return wants
}

// Creation wants a new pod, and has its owner's events tell of it.
func Creation(p *corev1.Pod, reason string) loop.Want {
	return loop.Want{
		Object: p,
		Reason: reason,
		Done:   &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulCreate", Message: "Created pod: {name}"},
		Failed: &loop.Event{Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating: {cause}"},
	}
}

// Deletion drops a pod, and has its owner's events tell of it.
func Deletion(p *corev1.Pod, reason string) loop.Drop {
	d := loop.DropOf(p, reason)
	d.Done = &loop.Event{Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete", Message: "Deleted pod: {name}"}
	return d
}

// Of returns a new pod of the owner's template, without a name; it shares the template's memory.
func Of(owner kinds.Object, t *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    owner.GetName() + "-",
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(owner)},
		},
		Spec: t.Spec,
	}
}
