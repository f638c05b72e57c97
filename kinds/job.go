package kinds

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// LetGo is an annotation of a pod that its Job has given up before it ended: how it ends is not counted. Its value says why.
	LetGo = "lockstep.dev/let-go"
	// Unborn stands, in a new object, where its uid will be; see TakeUID.
	Unborn types.UID = "00000000-0000-0000-0000-000000000000"
)

func cronJobPods(o Object) (*metav1.ObjectMeta, *corev1.PodSpec, string) {
	t := &o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template
	return &t.ObjectMeta, &t.Spec, "spec.jobTemplate.spec.template.spec"
}

func jobTemplate(o Object) *corev1.PodTemplateSpec { return &o.(*batchv1.Job).Spec.Template }

func jobSelector(o Object) *metav1.LabelSelector { return o.(*batchv1.Job).Spec.Selector }

// JobFinished returns the condition by which a Job has ended, Complete or Failed; nil: it has not.
func JobFinished(j *batchv1.Job) *batchv1.JobCondition {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := JobCondition(j, t); c != nil {
			return c
		}
	}
	return nil
}

// JobCondition returns the condition of that type where it is true, or nil. It is the status' own.
func JobCondition(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// JobHolds says that nobody may remove a pod of that Job yet, since how it ends has still to be counted.
func JobHolds(j *batchv1.Job, p *corev1.Pod) bool {
	if j.DeletionTimestamp != nil || JobFinished(j) != nil || p.Annotations[LetGo] != "" ||
		JobCondition(j, batchv1.JobFailureTarget) != nil || JobCondition(j, batchv1.JobSuccessCriteriaMet) != nil {
		return false
	}
	counted := j.Status.UncountedTerminatedPods
	return counted == nil || !slices.Contains(counted.Succeeded, p.UID) && !slices.Contains(counted.Failed, p.UID)
}

// TakeUID puts the uid of a new object where Unborn stands for it: in the labels by which a Job selects its pods. The object may
// share memory with another one, which is not changed.
func TakeUID(o Object) {
	j, ok := o.(*batchv1.Job)
	if !ok {
		return
	}
	j.Spec.Template.Labels = born(j.Spec.Template.Labels, j.UID)
	if j.Spec.Selector != nil {
		selector := *j.Spec.Selector
		selector.MatchLabels = born(selector.MatchLabels, j.UID)
		j.Spec.Selector = &selector
	}
}

func born(labels map[string]string, uid types.UID) map[string]string {
	labels = maps.Clone(labels)
	for name, value := range labels {
		if value == string(Unborn) {
			labels[name] = string(uid)
		}
	}
	return labels
}

// jobHealth: it is complete, or suspended as stated. A pod that has failed is of no matter while others may follow it.
func jobHealth(j *batchv1.Job, see Sight) Health {
	count := fmt.Sprintf("%d complete", j.Status.Succeeded)
	if want := j.Spec.Completions; want != nil {
		count = fmt.Sprintf("%d/%d complete", min(j.Status.Succeeded, *want), *want)
	}
	if c := JobFinished(j); c != nil {
		if c.Type == batchv1.JobComplete {
			return Health{State: Healthy}
		}
		return failed(c.Reason+": "+c.Message, count)
	}
	if c := JobCondition(j, batchv1.JobFailureTarget); c != nil {
		return failed(c.Reason+": "+c.Message, count)
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend && JobCondition(j, batchv1.JobSuspended) != nil {
		return Health{State: Healthy}
	}
	h := worst(unended(pods(see.Controlled(j.UID))), see)
	if h.State == Failed {
		return h.failed(count)
	}
	return h.progressing(count)
}

// unended are the pods that have not failed or succeeded.
func unended(pods iter.Seq[*corev1.Pod]) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range pods {
			if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded && !yield(p) {
				return
			}
		}
	}
}
