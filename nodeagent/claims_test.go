package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestClaims has a pod wait for its claims, write to what they are bound to, write there again when its container restarts
// without the control plane and after the agent was started anew, and end: what it wrote stays.
func TestClaims(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	disk := l.opts.DataDir + "-disk"
	dir, link := filepath.Join(disk, "data"), filepath.Join(disk, "device")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "old"), 0o700),
		os.WriteFile(filepath.Join(dir, "old", "file"), []byte("first\n"), 0o600),
		unix.Mknod(link, unix.S_IFBLK|0o640, int(unix.Mkdev(7, 0)))); err != nil {
		t.Fatal(err)
	}
	claim := func(name string, phase corev1.PersistentVolumeClaimPhase, change func(*corev1.PersistentVolumeSpec)) {
		t.Helper()
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: name, UID: types.UID(name)},
		}}
		change(&pv.Spec)
		l.put(pv)
		l.put(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: pv.Name, VolumeMode: pv.Spec.VolumeMode,
				Resources: corev1.VolumeResourceRequirements{Requests: size}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase}})
	}
	local := func(path string) func(*corev1.PersistentVolumeSpec) {
		return func(pv *corev1.PersistentVolumeSpec) {
			pv.Local = &corev1.LocalVolumeSource{Path: path}
			pv.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}}}}}}
		}
	}
	block := corev1.PersistentVolumeBlock
	claim("device", corev1.ClaimBound, func(pv *corev1.PersistentVolumeSpec) {
		local(link)(pv)
		pv.VolumeMode = &block
	})
	claim("host", corev1.ClaimBound, func(pv *corev1.PersistentVolumeSpec) {
		pv.HostPath = &corev1.HostPathVolumeSource{Path: dir}
	})
	c := shell("main", "cat /data/old/file; echo again >>/data/old/file; cat /sub/file; echo no 2>/dev/null >/host/new || echo read-only; "+
		"stat -c 'is %A %t:%T' /dev/data; id; trap 'exit 1' TERM; while :; do sleep 1; [ -e /data/end ] && rm /data/end && exit 1; done")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/sub", SubPath: "old"},
		{Name: "host", MountPath: "/host"}}
	c.VolumeDevices = []corev1.VolumeDevice{{Name: "device", DevicePath: "/dev/data"}}
	of := func(name string, readOnly bool) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name, ReadOnly: readOnly}}}
	}
	l.bind("claims", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c},
		SecurityContext: &corev1.PodSecurityContext{FSGroup: new(int64(2000))},
		Volumes:         []corev1.Volume{of("data", false), of("host", true), of("device", false)},
	})
	const unprocessed = "failed to process volumes=[data]: error processing PVC default/data: "
	l.event("claims", "FailedMount", unprocessed+"failed to fetch PVC from API server")
	claim("data", corev1.ClaimPending, local(dir))
	l.event("claims", "FailedMount", unprocessed+"PVC is not bound")
	claim("data", corev1.ClaimBound, local(dir))
	p := l.running("claims")
	l.prints(p, "main", "stdout F first")
	l.prints(p, "main", "stdout F again")
	l.prints(p, "main", "stdout F read-only")
	l.prints(p, "main", "stdout F is brw-r----- 7:0")
	l.prints(p, "main", "groups=0(root),2000")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "old", "file"), &st); err != nil || st.Gid != 2000 || st.Mode&0o7777 != 0o660 {
		t.Errorf("the fsGroup: %o %d, %v", st.Mode, st.Gid, err)
	}
	l.halt()
	l.stopAPI()
	l.start()
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.eventually("its container restarts without the control plane", 2*time.Minute, func() error {
		if text := l.log(p, "main", 1); strings.Count(text, "stdout F again") < 3 || !strings.Contains(text, "read-only") {
			return fmt.Errorf("log %q", text)
		}
		return nil
	})
	l.serve(l.address)
	l.remove("claims")
	l.gone("claims")
	l.clean()
	if text, err := os.ReadFile(filepath.Join(dir, "old", "file")); err != nil || string(text) != "first\nagain\nagain\n" {
		t.Errorf("the data: %q, %v", text, err)
	}
}
