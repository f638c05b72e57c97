package pod_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pods"
)

// TestClaims has pods wait for a claim, for its volume, and for the claim to be bound, an hour each time unless they hear of it; a
// pod beside them does not wait.
func TestClaims(t *testing.T) {
	w := newWorld(t)
	o, ephemeral := object("data", "main"), object("scratch", "main")
	o.Spec.Volumes = []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "files"}}}}
	ephemeral.Spec.Volumes = []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	for _, o := range []*corev1.Pod{o, ephemeral, object("beside", "main")} {
		w.Bind(o)
	}
	w.ready("beside")
	claim := func(name string, phase corev1.PersistentVolumeClaimPhase, owner types.UID) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
			Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
		if owner != "" {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: string(owner), UID: owner, Controller: new(true)}}
		}
		return c
	}
	const unprocessed = "FailedMount: Unable to attach or mount volumes: unmounted volumes=[files], unattached volumes=[], " +
		"failed to process volumes=[files]: error processing PVC shop/"
	start := func(of types.UID) corev1.PodCondition {
		reported, _, _ := w.Pod(of).Status()
		if c := podstatus.Condition(&reported.Status, corev1.PodReadyToStartContainers); c != nil {
			return *c
		}
		return corev1.PodCondition{}
	}
	for _, step := range []struct {
		pod  types.UID
		told string
		put  metav1.Object
	}{
		{"data", "files: failed to fetch PVC from API server: ", claim("files", corev1.ClaimPending, "")},
		{"data", "files: PVC is not bound", claim("files", corev1.ClaimBound, "")},
		{"scratch", "scratch-files: failed to fetch PVC from API server: ", claim("scratch-files", corev1.ClaimBound, "other")},
		{"scratch", "scratch-files: PVC shop/scratch-files was not created for pod shop/scratch (pod is not owner)",
			claim("scratch-files", corev1.ClaimBound, "scratch")},
		{"data", "files: failed to fetch PV pv-files from API server: ", nil},
	} {
		w.until("it is told that "+step.told, func() error {
			if !w.told(unprocessed+step.told) || !w.Pod(step.pod).Delay(pods.Key{Kind: pods.Volumes}, time.Now().Add(time.Hour)) {
				return errors.New("not yet")
			}
			c := start(step.pod)
			if c.Status != corev1.ConditionFalse || c.Reason != "FailedMount" || !strings.Contains(c.Message, step.told) {
				return fmt.Errorf("its status says %+v", c)
			}
			return nil
		})
		if step.put != nil {
			w.Put(step.put)
		}
	}
	for _, name := range []string{"files", "scratch-files"} {
		w.Put(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{UID: types.UID(name)}}})
	}
	w.Put(claim("files", corev1.ClaimBound, "")) // nobody tells of volumes
	w.Put(claim("scratch-files", corev1.ClaimBound, "scratch"))
	w.ready("data")
	w.ready("scratch")
	if c := start("data"); c.Status != corev1.ConditionTrue || c.Reason != "" || c.Message != "" {
		t.Errorf("the pod runs, and its status says %+v", c)
	}
	for _, name := range []string{"data", "scratch", "beside"} {
		w.Unbind(types.UID(name), time.Second)
		w.gone(name)
	}
	w.clean()
}
