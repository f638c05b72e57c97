package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// TestStorage lets pods write more than they may.
func TestStorage(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	write := func(path string) corev1.Container {
		return shell("main", "dd if=/dev/zero of="+path+" bs=1024 count=4096; "+forever)
	}
	volume := write("/data/big")
	volume.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	limit := resource.MustParse("1Mi")
	l.bind("volume", corev1.PodSpec{Containers: []corev1.Container{volume},
		Volumes: []corev1.Volume{{
			Name:         "data",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}},
		}}})
	layer := write("/tmp/big")
	layer.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
	l.bind("layer", corev1.PodSpec{Containers: []corev1.Container{layer}})
	roomy := resource.MustParse("8Mi")
	l.bind("fits", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{volume},
		Volumes: []corev1.Volume{{
			Name:         "data",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &roomy}},
		}}})
	for name, message := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `,
		"layer":  "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
	} {
		l.eventually(name+" evicted", 20*time.Second, func() error {
			s := l.pod(name).Status
			if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != message {
				return fmt.Errorf("phase %s, reason %q, message %q", s.Phase, s.Reason, s.Message)
			}
			for _, c := range s.ContainerStatuses {
				if c.State.Terminated == nil {
					return fmt.Errorf("failed while container runs: %+v", c)
				}
			}
			return nil
		})
		l.event(name, "Evicted", message)
	}
	if p := l.running("fits"); p.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod within its limit is %s", p.Status.Phase)
	}
	l.reportsDisk(t)
}

// reportsDisk looks at what the node says of its disk.
func (l *lab) reportsDisk(t *testing.T) {
	t.Helper()
	l.eventually("image listed", 10*time.Second, func() error {
		for _, i := range l.node().Status.Images {
			if slices.Contains(i.Names, busybox) && i.SizeBytes > 100<<10 {
				return nil
			}
		}
		return fmt.Errorf("images %v", l.node().Status.Images)
	})
	for _, c := range l.node().Status.Conditions {
		if strings.HasSuffix(string(c.Type), "Pressure") && c.LastHeartbeatTime.IsZero() {
			t.Errorf("condition %+v", c)
		}
	}
	l.bind("writes", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{
		shell("main", "dd if=/dev/zero of=/tmp/big bs=1024 count=2048; echo written; "+forever),
	}})
	l.prints(l.running("writes"), "main", "written")
	dir := l.agent.imageDir
	if !strings.HasPrefix(dir, l.dir+"/c/root/") {
		t.Errorf("images are in %s, the agent found %s", l.dir+"/c/root", dir)
	}
	l.eventually("own writes measured", 10*time.Second, func() error {
		w := httptest.NewRecorder()
		l.agent.summary.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "GET", "/stats/summary", nil))
		var s statsapi.Summary
		if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
			return err
		}
		for _, p := range s.Pods {
			for _, c := range p.Containers {
				if c.Rootfs != nil && c.Rootfs.UsedBytes != nil && *c.Rootfs.UsedBytes >= 2<<20 {
					return nil
				}
			}
		}
		return errors.New(w.Body.String())
	})
}
