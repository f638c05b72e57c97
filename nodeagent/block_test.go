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

// TestBlockVolume: a claim of mode Block is a file of the node that containers have as a device, for writing or for reading alone, with the
// owner that devices have on the machine; another agent finds it again, it grows, and nothing of it is left when the cluster gives it up.
func TestBlockVolume(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	path := filepath.Join(l.node().Annotations[kinds.LocalPath], "pvc-disk")
	block, name := corev1.PersistentVolumeBlock, l.opts.NodeName
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-disk", UID: "pv-disk", Labels: map[string]string{kinds.LocalPathNode: name},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}, Finalizers: []string{kinds.LocalPath}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, VolumeMode: &block, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: "disk", UID: "disk"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	strategy.Default(pv)
	l.put(pv)
	l.put(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "disk", UID: types.UID("disk")},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: pv.Name, VolumeMode: &block,
			Resources: corev1.VolumeResourceRequirements{Requests: size}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
	pod := func(name string, readOnly bool, user int64, script string) {
		c := shell("main", script+"; "+forever)
		c.VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}
		l.bind(name, corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk", ReadOnly: readOnly}}}},
		})
	}
	devices := func() (out []string) {
		t.Helper()
		files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == path {
				out = append(out, strings.Split(f, "/")[3])
			}
		}
		return out
	}
	const write = "echo hello | dd of=/dev/data conv=fsync 2>/dev/null && echo written || echo refused"
	pod("writer", false, 0, write+"; while [ $(wc -c </dev/data) -lt 2000000 ]; do sleep 0.2; done; echo grown")
	l.prints(l.running("writer"), "main", "stdout F written")
	pod("reader", true, 0, "head -c 5 /dev/data; echo; "+write)
	reader := l.running("reader")
	l.prints(reader, "main", "stdout F hello")
	l.prints(reader, "main", "stdout F refused")
	pod("user", false, 1000, write+"; id -u") // who is not of the group that the machine gives devices to
	user := l.running("user")
	l.prints(user, "main", "stdout F refused")
	l.prints(user, "main", "stdout F 1000")
	before := devices()
	if len(before) != 1 {
		t.Fatalf("the file's devices: %v", before)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "hello\n") || len(text) != 1<<20 {
		t.Errorf("the file has %d bytes, %v", len(text), err)
	}

	// Another agent finds the device, and has it grow with the claim.
	l.halt()
	l.start()
	grown := pv.DeepCopy()
	grown.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("2Mi")
	l.put(grown)
	l.prints(l.running("writer"), "main", "stdout F grown")
	for _, name := range []string{"reader", "user"} {
		l.remove(name)
		l.gone(name)
	}
	if after := devices(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the file's devices are %v, and were %v", after, before)
	}

	// The claim is given up while its last pod ends.
	grown = grown.DeepCopy()
	now := metav1.Now().Rfc3339Copy()
	grown.DeletionTimestamp, grown.Status.Phase = &now, corev1.VolumeReleased
	l.put(grown)
	l.event("pvc-disk", "VolumeFailedDelete", "a pod on this node has it mounted")
	l.remove("writer")
	l.gone("writer")
	l.eventually("the volume goes", 40*time.Second, func() error {
		if l.store.View().Get(kinds.KeyOf(pv)) != nil {
			return errors.New("still there")
		}
		return nil
	})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || len(devices()) > 0 {
		t.Errorf("it is left: %v, devices %v", err, devices())
	}
	l.clean()
}
