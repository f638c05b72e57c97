package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// sleeping are the processes that sleep for so long.
func sleeping(seconds string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if strings.HasSuffix(string(data), "sleep\x00"+seconds+"\x00") {
			out = append(out, filepath.Dir(f))
		}
	}
	return out
}

// TestHang has commands whose children hold their output, and commands that do
// not end: nobody waits for them longer than the pod says.
func TestHang(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	pod := func(grace int64, cs ...corev1.Container) corev1.PodSpec {
		return corev1.PodSpec{TerminationGracePeriodSeconds: new(grace), Containers: cs}
	}
	probe := func(script string, timeout int32) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: timeout, FailureThreshold: 1, ProbeHandler: execHandler(script)}
	}
	live := shell("main", forever)
	live.LivenessProbe = probe("sleep 5701 & exit 1", 60)
	l.bind("live", pod(1, live))
	late := shell("main", forever)
	late.ReadinessProbe = probe("sleep 5702 & sleep 5702", 1)
	l.bind("late", pod(1, late))
	long := shell("main", forever)
	long.ReadinessProbe = probe("sleep 5703 & sleep 5703", 3600)
	l.bind("long", pod(1, long))
	hook := shell("main", forever)
	hook.Lifecycle = &corev1.Lifecycle{PreStop: execHook("sleep 5704 & exit 0")}
	l.bind("prestop", pod(300, hook))
	post := shell("main", forever)
	post.Lifecycle = &corev1.Lifecycle{PostStart: execHook("sleep 5705 & sleep 5705")}
	l.bind("poststart", pod(1, post))

	l.running("prestop")
	l.remove("prestop")
	l.gone("prestop")
	l.eventually("live restarted", 40*time.Second, func() error {
		for _, s := range l.pod("live").Status.ContainerStatuses {
			if s.RestartCount > 0 {
				return nil
			}
		}
		return fmt.Errorf("status %+v", l.pod("live").Status.ContainerStatuses)
	})
	l.event("late", "Unhealthy", "Readiness probe failed: command timed out:")
	for _, seconds := range []string{"5703", "5705"} {
		l.eventually(seconds+" sleeps", 40*time.Second, func() error {
			if len(sleeping(seconds)) == 0 {
				return fmt.Errorf("it does not")
			}
			return nil
		})
	}
	began := time.Now()
	l.halt()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the agent took %s to end", took)
	}
	for _, seconds := range []string{"5702", "5703", "5705"} {
		l.eventually("nothing left of the command that sleeps "+seconds, 10*time.Second, func() error {
			if left := sleeping(seconds); len(left) > 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	}
}

// TestStartOrder: a container starts when the postStart hook of the one before
// it in the list has ended.
func TestStartOrder(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	shared := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	step := func(name, after string) corev1.Container {
		c := shell(name, "test -e /shared/"+after+" && echo in order; test -e /shared/"+name+" && echo too late; "+forever)
		c.Lifecycle = &corev1.Lifecycle{PostStart: execHook("sleep 1; touch /shared/" + name)}
		c.VolumeMounts = shared
		return c
	}
	side, other := step("side", ""), step("other", "side-up")
	side.RestartPolicy, other.RestartPolicy = new(corev1.ContainerRestartPolicyAlways), new(corev1.ContainerRestartPolicyAlways)
	side.StartupProbe = &corev1.Probe{
		PeriodSeconds:    1,
		TimeoutSeconds:   30,
		FailureThreshold: 60,
		ProbeHandler:     execHandler("sleep 1; touch /shared/side-up"),
	}
	p := l.bind("order", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		InitContainers:                []corev1.Container{side, other},
		Containers:                    []corev1.Container{step("proxy", "other"), step("app", "proxy"), step("last", "app")},
		Volumes: []corev1.Volume{{
			Name:         "shared",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
		}},
	})
	l.running("order")
	for _, name := range []string{"side", "other", "proxy", "app", "last"} {
		l.prints(p, name, "in order")
		if strings.Contains(l.log(p, name, 0), "too late") {
			t.Errorf("%s started after its own hook", name)
		}
	}
}
