package pod_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/images"
)

// TestImageVolumes has the image of a volume be missing: containers that do not mount it run, the others wait with the
// kubelet's reason until it comes. It is asked for once a pod, not once a container, and goes with the pod.
func TestImageVolumes(t *testing.T) {
	w := newWorld(t)
	w.Machine.Lose("files:1", true)
	o := object("web", "main", "beside", "also")
	o.Spec.Volumes = []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{
		Image: &corev1.ImageVolumeSource{Reference: "files:1", PullPolicy: corev1.PullAlways}}}}
	for _, i := range []int{0, 2} {
		o.Spec.Containers[i].VolumeMounts = []corev1.VolumeMount{{Name: "files", MountPath: "/files"}}
	}
	w.Bind(o)
	w.waits("web", "ErrImagePull")
	w.until("the other one runs", func() error {
		if _, ok := w.Machine.Running()["web/beside"]; !ok {
			return errors.New("it does not")
		}
		return nil
	})
	if !w.told("Failed: Error: ErrImagePull") {
		t.Errorf("events %q", w.Machine.Events())
	}
	w.Machine.Lose("files:1", false)
	w.ready("web")
	w.Machine.Lose("files:1", true)
	w.Machine.End(w.Machine.Running()["web/main"].ID, 1)
	w.until("it has restarted", func() error {
		if c, ok := w.Machine.Running()["web/main"]; !ok || c.Attempt != 1 {
			return errors.New("it has not")
		}
		return nil
	})
	w.Unbind("web", time.Second)
	w.gone("web")
	w.clean()
}

// TestProgress: of a pull that lasts there are events, each after twice as long as the one before.
func TestProgress(t *testing.T) {
	w := newWorld(t)
	w.Bind(object("web", "main"))
	w.ready("web")
	var told []string
	progress := w.Pod("web").Progress("main", "app:1", func(e images.Event) { told = append(told, e.Type+" "+e.Reason+" "+e.Message) })
	for i := range 9 {
		progress(int64(i+1)<<20, 10<<20)
	}
	var want []string
	for _, i := range []int{1, 2, 4, 8} {
		want = append(want, fmt.Sprintf(`Normal Pulling Pulling image "app:1": %d.0 of 10.0 MiB`, i))
	}
	if !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}
