package nodeagent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/logind/logindtest"
	"lockstep/nodeagent/shutdown"
)

// TestShutdown: logind says that the machine shuts down. Ordinary pods end, then a critical one, within their time; all have failed,
// the API knows it, and the shutdown waits until then. What comes meanwhile is refused. Then the shutdown is called off.
func TestShutdown(t *testing.T) {
	bus := logindtest.New(t)
	l := newLab(t)
	l.opts.systemBus, l.opts.logindConf = bus.Path, bus.ConfDir
	var err error
	if l.opts.Shutdown, err = shutdown.Parse(shutdown.Texts{Period: 60 * time.Second, CriticalPods: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.ready()
	l.eventually("an inhibitor is held", 20*time.Second, func() error {
		if !bus.Held() {
			return fmt.Errorf("asked for %q", bus.Asked())
		}
		return nil
	})
	spec := func(priority int32, end string) corev1.PodSpec {
		return corev1.PodSpec{Priority: &priority, TerminationGracePeriodSeconds: new(int64(20)), RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{shell("main", "trap '"+end+"' TERM; "+forever)}}
	}
	l.bind("ordinary", spec(0, "sleep 2; exit 0"))
	l.bind("critical", spec(kinds.LowestCritical, "exit 0"))
	l.running("ordinary")
	l.running("critical")
	bus.Shutdown(true)
	l.eventually("the shutdown goes on", 60*time.Second, func() error {
		if bus.Held() {
			return fmt.Errorf("it still waits")
		}
		return nil
	})
	ended := map[string]time.Time{}
	for _, name := range []string{"ordinary", "critical"} {
		s := l.pod(name).Status
		if s.Phase != corev1.PodFailed || s.Reason != "Terminated" ||
			s.Message != "Pod was terminated in response to imminent node shutdown." || !podstatus.True(&s, corev1.DisruptionTarget) {
			t.Errorf("%s: %s, %s, %s", name, s.Phase, s.Reason, s.Message)
		}
		if end := s.ContainerStatuses[0].State.Terminated; end != nil {
			ended[name] = end.FinishedAt.Time
		}
	}
	if ended["critical"].Before(ended["ordinary"]) {
		t.Errorf("ended at %v", ended)
	}
	l.eventually("the node says so", 20*time.Second, func() error {
		for _, c := range l.node().Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "node is shutting down") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", l.node().Status.Conditions)
	})
	l.bind("late", spec(0, "exit 0"))
	l.eventually("a pod is refused", 20*time.Second, func() error {
		s := l.pod("late").Status
		if s.Phase != corev1.PodFailed || s.Reason != "NodeShutdown" ||
			s.Message != "Pod was rejected: Pod was rejected as the node is shutting down." {
			return fmt.Errorf("%s, %s, %s", s.Phase, s.Reason, s.Message)
		}
		return nil
	})
	bus.Shutdown(false)
	l.ready()
	l.eventually("the next shutdown waits", 20*time.Second, func() error {
		if !bus.Held() {
			return fmt.Errorf("asked for %q", bus.Asked())
		}
		return nil
	})
	l.bind("again", spec(0, "exit 0"))
	l.running("again")
}
