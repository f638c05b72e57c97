package nodeagent

import (
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/pod/conformance"
)

// TestMachine holds containerd, the kernel and the CNI plugins to what pods rely on.
func TestMachine(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.running(l.bind("first", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{shell("main", forever)},
	}).Name) // the machine is whole, then
	conformance.Run(t, conformance.Subject{
		Machine: l.agent.host.Machine, Facts: l.agent.nodeFacts(), Image: busybox, Missing: "example.com/none:1",
		Forever: []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"},
		True:    []string{"sh", "-c", "exit 0"}, Absent: []string{"/absent"},
		RunDir: l.opts.RunDir, LogDir: filepath.Join(l.dir, "conformance-logs"),
		Cgroup: machine.Cgroup(l.agent.opts.NodeName),
	})
	l.remove("first")
	l.gone("first")
	l.clean()
}
