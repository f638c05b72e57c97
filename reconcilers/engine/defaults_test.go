package engine_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestDefaultsOfWhatIsCreated: an object that is made of a template has the defaults of its kind before anything is derived from
// them, though the template has not.
func TestDefaultsOfWhatIsCreated(t *testing.T) {
	limits := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers:    []corev1.Container{{Name: "main", Image: "one", Resources: corev1.ResourceRequirements{Limits: limits}}},
	}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "sum"}
	job := &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}
	b := newBench(t, loop.Reconciler{
		Writes: []loop.Write{{Kind: kinds.For[*batchv1.Job](), Create: true}, {Kind: kinds.For[*corev1.Pod](), Create: true}},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (d loop.Decision, err error) {
			if _, there := view.Get[*batchv1.Job](v, "shop", "sum"); !there {
				d.Wants = []loop.Want{{Object: job, Reason: "due"}, {Object: &corev1.Pod{ObjectMeta: meta, Spec: spec}, Reason: "due"}}
			}
			return d, nil
		},
	})
	b.drain(t)
	made, ok := view.Get[*batchv1.Job](b.View(), "shop", "sum")
	if !ok {
		t.Fatal("no job was made")
	}
	if s := made.Spec; *s.BackoffLimit != 6 || s.Selector.MatchLabels[batchv1.ControllerUidLabel] != string(made.UID) {
		t.Errorf("the job has %v and %v", *s.BackoffLimit, s.Selector)
	}
	pod, _ := view.Get[*corev1.Pod](b.View(), "shop", "sum")
	if got := pod.Spec.Containers[0].Resources.Requests; !got.Cpu().Equal(limits["cpu"]) {
		t.Errorf("the pod requests %v, with limits of %v", got, limits)
	}
	if pod.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("the pod is %s, and what it may use is what it requests", pod.Status.QOSClass)
	}
}
