package api

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"lockstep/kinds"
	"lockstep/store"
)

// busyStore has the status of a pod written just before the first tries to delete it.
type busyStore struct {
	store.Backend
	times int
}

func (b *busyStore) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	w := groups[0][0]
	if old, ok := b.View().Get(w.Key).(*corev1.Pod); ok && w.Object == nil && b.times > 0 {
		b.times--
		pod := old.DeepCopy()
		pod.Status.Message += "."
		b.Backend.Commit(ctx, store.Group{{Key: w.Key, Object: pod, If: store.Anyway, Reason: "test"}})
	}
	return b.Backend.Commit(ctx, groups...)
}

// TestDeleteBesideStatuses: a node that deletes a pod while its status is written is not told of a conflict.
func TestDeleteBesideStatuses(t *testing.T) {
	s := newTestServer(t, nil, testNode("n1"))
	s.stop()
	s.opts.Store, s.opts.Registerer = &busyStore{s.store, 2}, nil
	s.start(s.address)
	zero, grace, deleted := int64(0), int64(30), metav1.Now()
	pod := testPod("shop", "busy", "n1")
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &deleted, &grace
	s.put(pod)
	if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
		t.Fatal(err)
	}
	pods := kubernetes.NewForConfigOrDie(s.node("n1")).CoreV1().Pods("shop")
	other := pod.UID + "-other"
	if err := pods.Delete(t.Context(), pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
		t.Errorf("with another pod's uid: %v", err)
	}
	if err := pods.Delete(t.Context(), pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}}); err != nil {
		t.Error(err)
	}
	if s.store.View().Get(kinds.KeyOf(pod)) != nil {
		t.Error("the pod is still there")
	}
}

// TestDeleteWaitsForTheJob: a pod of a Job goes once it is written down how it ended.
func TestDeleteWaitsForTheJob(t *testing.T) {
	s := newTestServer(t, nil, testNode("n1"))
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sum", UID: "sum-1"}}
	job.Spec.Template.Spec = testPod("shop", "sum-x", "n1").Spec
	pod := testPod("shop", "sum-x", "n1")
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	zero, grace, deleted := int64(0), int64(30), metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &deleted, &grace
	s.put(job)
	s.put(pod)
	seen := func() {
		if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
			t.Fatal(err)
		}
	}
	seen()
	end := func(ctx context.Context) error {
		pods := kubernetes.NewForConfigOrDie(s.node("n1")).CoreV1().Pods("shop")
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
	}
	// A client tries again by itself, as long as it may.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
	defer cancel()
	if err := end(ctx); err == nil || s.store.View().Get(kinds.KeyOf(pod)) == nil {
		t.Errorf("the pod went before it was counted: %v", err)
	}
	job = s.store.View().Get(kinds.KeyOf(job)).DeepCopyObject().(*batchv1.Job)
	job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{pod.UID}}
	s.put(job)
	seen()
	if err := end(t.Context()); err != nil || s.store.View().Get(kinds.KeyOf(pod)) != nil {
		t.Errorf("the pod is still there: %v", err)
	}
}
