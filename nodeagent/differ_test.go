package nodeagent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds/drift"
	"lockstep/sync/found"
)

// drift is what the API was told of, the newest first.
func (l *lab) drift() []drift.Finding {
	all, _ := found.In(l.store.View(), found.Filter{Node: l.opts.NodeName})
	return all
}

// finds waits for a finding of a kind and a place.
func (l *lab) finds(kind drift.Kind, place string, like func(drift.Finding) bool) drift.Finding {
	l.t.Helper()
	var out drift.Finding
	l.eventually(fmt.Sprintf("%s of %s is found", kind, place), 30*time.Second, func() error {
		all := l.drift()
		i := slices.IndexFunc(all, func(f drift.Finding) bool { return f.Kind == kind && f.Place == place && like(f) })
		if i < 0 {
			return fmt.Errorf("found %+v", all)
		}
		out = all[i]
		return nil
	})
	return out
}

// kill has somebody from outside kill a container's first process.
func (l *lab) kill(container string) {
	l.t.Helper()
	pid := int(l.pids()[container])
	if pid <= 1 { // a group, or all processes
		l.t.Fatalf("container %s does not run", container)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
}

func settled(f drift.Finding) bool { return f.Settled() }

// TestKilledContainers tells containers that somebody killed from those that ended otherwise: by themselves, for lack of memory, or
// because the agent ended them.
func TestKilledContainers(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	hog := shell("hog", "sleep 1; x=a; while :; do x=$x$x; done")
	hog.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("16Mi")}
	sick := shell("sick", "trap '' TERM; while :; do sleep 0.1; done")
	sick.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TerminationGracePeriodSeconds: new(int64(1)),
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "exit 1"}}}}
	l.bind("struck", corev1.PodSpec{Containers: []corev1.Container{shell("web", forever)}})
	l.bind("once", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{shell("web", forever)}})
	l.bind("others", corev1.PodSpec{Containers: []corev1.Container{hog, sick, shell("ends", "exit 3")}})
	for _, name := range []string{"struck", "once"} {
		l.running(name)
		l.kill(name + "/web")
	}
	of := func(pod string) func(drift.Finding) bool {
		return func(f drift.Finding) bool { return f.Pod != nil && f.Pod.Name == pod && settled(f) }
	}
	f := l.finds(drift.Killed, "web", of("struck"))
	if f.Repaired.IsZero() || f.How != "restarted, as restart 1" || f.What != "exit code 137 (SIGKILL), restart 0" ||
		f.Object != "Pod default/struck" || f.Node != l.opts.NodeName {
		t.Errorf("%+v", f)
	}
	f = l.finds(drift.Killed, "web", of("once"))
	if !f.Repaired.IsZero() || f.How != "it is not restarted: its pod's restartPolicy is Never" {
		t.Errorf("%+v", f)
	}
	l.eventually("the others were restarted", 60*time.Second, func() error {
		var waits []string
		for _, c := range l.pod("others").Status.ContainerStatuses {
			if c.RestartCount == 0 {
				waits = append(waits, c.Name)
			}
		}
		if len(waits) > 0 {
			return errors.New(strings.Join(waits, ", "))
		}
		return nil
	})
	l.eventually("its event", 10*time.Second, func() error {
		for _, e := range l.events("struck") {
			if e.Reason == "DriftRepaired" && strings.Contains(e.Message, "container killed on node "+l.opts.NodeName+", repaired") {
				return nil
			}
		}
		return fmt.Errorf("events %v", l.events("struck"))
	})
	for _, f := range l.drift() {
		if f.Pod != nil && f.Pod.Name == "others" {
			t.Errorf("found of what ended otherwise: %+v", f)
		}
	}
}
