package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/runtime"
)

// leftOf says what is left of pods' containers: layers, shims' sockets, the OCI runtime's state, bundles, mounts
// and cgroups.
func (l *lab) leftOf(pods []*corev1.Pod) error {
	var left []string
	exists := func(path string) {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	rt, err := runtime.Open(runtime.Options{Address: l.opts.Containerd, Node: l.opts.NodeName})
	if err != nil {
		return err
	}
	defer rt.Close()
	layers, err := rt.Layers(l.t.Context())
	if err != nil {
		return err
	}
	for _, id := range layers {
		left = append(left, "layer "+id)
	}
	for _, c := range l.list() {
		left = append(left, "container "+c.ID)
	}
	for _, p := range pods {
		exists(runtime.ShimSocket(l.opts.Containerd, string(p.UID)))
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			for attempt := range 50 {
				id := runtime.Identity{PodUID: string(p.UID), Name: c.Name, Attempt: attempt}.ID()
				exists(runtime.ShimSocket(l.opts.Containerd, id))
				exists(filepath.Join(runtime.StateDir, "runc", runtime.Namespace, id))
				for _, dir := range []string{"state", "root"} {
					exists(filepath.Join(l.dir, "c", dir, "io.containerd.runtime.v2.task", runtime.Namespace, id))
				}
			}
		}
		for _, root := range cgroup.Hierarchies() {
			for _, tier := range []string{"", "burstable", "besteffort"} {
				exists(filepath.Join(root, machine.Cgroup(l.opts.NodeName), tier, "pod"+string(p.UID)))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo") // of which the one that CSI drivers share is the agent's
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], l.dir+"/") && f[4] != filepath.Join(l.opts.DataDir, "kubelet") {
			left = append(left, "mount "+f[4])
		}
	}
	if n := shimsOf(l.t.(*testing.T), l); n > 0 {
		left = append(left, fmt.Sprint(n, " shims"))
	}
	if len(left) > 0 {
		return errors.New(strings.Join(left, "\n"))
	}
	return nil
}

// TestKilledShims kills shims while containers start, and when they run: their pods come up all the same, and when they are
// gone nothing is left of them, also where the agent was away when the shim was killed.
func TestKilledShims(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	var all []*corev1.Pod
	bind := func(names ...string) {
		for _, name := range names {
			all = append(all, l.bind(name, corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)),
				InitContainers: []corev1.Container{shell("init", "sleep 0.2")},
				Containers:     []corev1.Container{shell("a", forever), shell("b", forever)}}))
		}
	}
	bind("first", "second", "third")
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline); time.Sleep(37 * time.Millisecond) {
		killShims(t, l)
	}
	for _, name := range []string{"first", "second", "third"} {
		l.eventually(name+" runs", 120*time.Second, func() error {
			if s := l.pod(name).Status; !podstatus.Ready(&s) {
				return fmt.Errorf("status %+v", s.ContainerStatuses)
			}
			return nil
		})
		// A try meets nothing of the one before.
		if s := fmt.Sprint(l.pod(name).Status, l.events(name)); strings.Contains(s, "already exists") {
			t.Errorf("%s: %s", name, s)
		}
	}
	killShims(t, l)
	for _, name := range []string{"first", "second", "third"} {
		l.remove(name)
		l.gone(name)
	}
	l.eventually("nothing left", 30*time.Second, func() error { return l.leftOf(all) })

	bind("fourth")
	l.running("fourth")
	l.halt()
	killShims(t, l)
	l.drop("fourth")
	l.start()
	l.eventually("nothing left", 90*time.Second, func() error { return l.leftOf(all) })
}
