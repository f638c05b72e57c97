package reconcilers

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/job"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestManyFailedIndexes: a job whose pods all fail at once is decided in a time that grows with their number, not with its square.
func TestManyFailedIndexes(t *testing.T) {
	const many, burst = 30000, 1000
	labels := map[string]string{"job": "sums"}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sums", UID: "job-sums"}, Spec: batchv1.JobSpec{
		CompletionMode: new(batchv1.IndexedCompletion), Completions: new(int32(many)), Parallelism: new(int32(many)),
		BackoffLimitPerIndex: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
	}}
	strategy.Default(j)
	objects := []kinds.Object{j}
	for i := range many {
		name := fmt.Sprint("sums-", i)
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: labels,
				Annotations:     map[string]string{batchv1.JobCompletionIndexAnnotation: strconv.Itoa(i)},
				OwnerReferences: []metav1.OwnerReference{loop.ControllerRef(j)}},
			Status: corev1.PodStatus{Phase: corev1.PodFailed},
		})
	}
	v := view.Of(objects...)
	began := time.Now()
	d, err := job.New().Decide(v, kinds.KeyOf(j), began)
	if took := time.Since(began); err != nil || took > 10*time.Second {
		t.Errorf("it took %v, %v", took, err)
	}
	if s := d.Status.(*batchv1.Job).Status; s.Failed != 0 || s.Active != burst {
		t.Errorf("%d are told as failed before they are replaced, %d as active", s.Failed, s.Active)
	}
}
