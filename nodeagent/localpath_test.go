package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// TestLocalPath: the node says where its volumes are, makes one for its first pod, has its data through the ends of pods and agent,
// refuses one that is elsewhere, tells of one that takes too much, and deletes what the cluster has given up, and that alone.
func TestLocalPath(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	dir := l.node().Annotations[kinds.LocalPath]
	if dir != filepath.Join(l.opts.DataDir, "local-path") {
		t.Fatalf("the node says that its volumes are at %q", dir)
	}
	volume := func(name, path string) *corev1.PersistentVolume {
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Ki")}
		modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		pv := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + name, UID: types.UID("pv-" + name),
				Labels:      map[string]string{kinds.LocalPathNode: l.opts.NodeName},
				Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}, Finalizers: []string{kinds.LocalPath}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
				ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: name,
					UID: types.UID(name)},
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{l.opts.NodeName}}}}}}},
			},
			Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
		}
		strategy.Default(pv)
		l.put(pv)
		l.put(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: pv.Name,
				Resources: corev1.VolumeResourceRequirements{Requests: size}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
		return pv
	}
	pod := func(name, claim, script string) {
		c := shell("main", script)
		c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		l.bind(name, corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: new(int64(1000))},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}},
		})
	}
	data, kept := volume("data", filepath.Join(dir, "pvc-data")), volume("kept", filepath.Join(dir, "pvc-kept"))
	outside := l.opts.DataDir + "-outside"
	volume("outside", outside)
	pod("first", "data", "dd if=/dev/zero of=/data/file bs=1024 count=100 2>/dev/null && echo written; "+forever)
	pod("beside", "kept", "echo kept >/data/file; "+forever)
	pod("outside", "outside", forever)
	l.prints(l.running("first"), "main", "stdout F written")
	l.running("beside")
	l.event("outside", "FailedMount", "MountVolume.SetUp failed for volume \"data\" : volume pvc-outside is not at "+
		filepath.Join(dir, "pvc-outside")+", the only place where it can be")
	if _, err := os.Stat(outside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory outside: %v", err)
	}
	l.drop("outside")
	l.remove("first")
	l.gone("first")
	l.halt()
	l.start() // which measures at its start
	l.eventually("the use of the claim is told", 40*time.Second, func() error {
		for _, e := range l.events("data") {
			if e.Reason == "VolumeOverCapacity" && strings.Contains(e.Message, "is over its capacity of 64Ki") {
				return nil
			}
		}
		return fmt.Errorf("events: %v", l.events("data"))
	})
	pod("second", "data", "test -s /data/file && echo found; "+forever)
	l.prints(l.running("second"), "main", "stdout F found")

	// The claim is gone while its pod is still being ended.
	giveUp := func(pv *corev1.PersistentVolume) {
		changed := pv.DeepCopy()
		now := metav1.Now().Rfc3339Copy()
		changed.DeletionTimestamp, changed.Status.Phase = &now, corev1.VolumeReleased
		l.put(changed)
	}
	giveUp(data)
	l.event("pvc-data", "VolumeFailedDelete", "a pod on this node has it mounted")
	l.remove("second")
	l.gone("second")
	l.eventually("the volume goes", 40*time.Second, func() error {
		if l.store.View().Get(kinds.KeyOf(data)) != nil {
			return errors.New("still there")
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(dir, "pvc-data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data of the claim that is gone: %v", err)
	}

	// What is not given up stays, until a reset.
	l.remove("beside")
	l.gone("beside")
	l.clean()
	if text, err := os.ReadFile(filepath.Join(kept.Spec.Local.Path, "file")); err != nil || string(text) != "kept\n" {
		t.Errorf("the data of the other claim: %q, %v", text, err)
	}
	l.halt()
	if err := Reset(t.Context(), l.opts); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the node's volumes after a reset: %v", err)
	}
}
