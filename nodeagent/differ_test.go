package nodeagent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/runtime"
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

// TestLooks changes by hand what no event, or only containerd's, tells: each is found, put back without a restart, and told.
func TestLooks(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	web := shell("web", forever)
	web.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi"), "cpu": resource.MustParse("500m")}
	l.bind("shop", corev1.PodSpec{Containers: []corev1.Container{web}})
	p := l.running("shop")
	pid := l.pids()["shop/web"]
	id := runtime.Identity{PodUID: string(p.UID), Name: "web", Attempt: 0}.ID()
	pod := filepath.Join(machine.Cgroup(l.opts.NodeName), "burstable", "pod"+string(p.UID))
	if p.Status.QOSClass == corev1.PodQOSGuaranteed {
		pod = filepath.Join(machine.Cgroup(l.opts.NodeName), "pod"+string(p.UID))
	}
	repaired := func(what string) func(drift.Finding) bool {
		return func(f drift.Finding) bool { return strings.Contains(f.What, what) && !f.Repaired.IsZero() }
	}
	time.Sleep(3 * time.Second) // looks at a pod that nobody has touched
	if got := l.drift(); len(got) != 0 {
		t.Fatalf("found of what nobody has touched: %+v", got)
	}
	limit := cgroupFile(pod, id, "memory/memory.limit_in_bytes", "memory.max")
	quota := cgroupFile(pod, id, "cpu/cpu.cfs_quota_us", "cpu.max")
	before := read(t, limit) + read(t, quota)
	write(t, limit, "33554432")
	l.finds(drift.Limits, "web", repaired("is 33554432 instead of 67108864"))
	write(t, quota, "30000")
	l.finds(drift.Limits, "web", repaired("30000"))
	if after := read(t, limit) + read(t, quota); after != before {
		t.Errorf("limits are %q, they were %q", after, before)
	}

	l.pause(id)
	f := l.finds(drift.Paused, "web", repaired("stood still"))
	if f.Object != "Pod default/shop" || len(f.Evidence) == 0 {
		t.Errorf("%+v", f)
	}
	write(t, cgroupFile(pod, "", "freezer/freezer.state", "cgroup.freeze"), map[bool]string{true: "1", false: "FROZEN"}[cgroup.V2()])
	l.finds(drift.Paused, "", repaired("stood still"))

	other := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	other.Spec.PodCIDRs = []string{"10.42.9.0/24"}
	other.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.77.2"}}
	l.put(other)
	_, dst, err := net.ParseCIDR(other.Spec.PodCIDRs[0])
	if err != nil {
		t.Fatal(err)
	}
	route := func() error {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("routes %v", list)
		}
		return err
	}
	l.eventually("the route to the other node", 20*time.Second, route)
	time.Sleep(3 * time.Second) // it has been looked at
	if err := netlink.RouteDel(&netlink.Route{Dst: dst}); err != nil {
		t.Fatal(err)
	}
	l.finds(drift.Route, "main table", repaired("1 of 1 routes to other nodes' pods are gone, the first: 10.42.9.0/24 via 192.168.77.2"))
	if err := route(); err != nil {
		t.Error(err)
	}
	if now := l.pids()["shop/web"]; now != pid {
		t.Errorf("the container was restarted: process %d, it was %d", now, pid)
	}
}

// cgroupFile is a file of a pod's cgroup, or of a container's, by its names in either version.
func cgroupFile(pod, id, first, second string) string {
	if cgroup.V2() {
		return filepath.Join(cgroup.Mount, pod, id, second)
	}
	controller, name, _ := strings.Cut(first, "/")
	return filepath.Join(cgroup.Mount, controller, pod, id, name)
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// pause has somebody pause a container through containerd.
func (l *lab) pause(id string) {
	l.t.Helper()
	c, err := client.New(l.opts.Containerd, client.WithDefaultNamespace(runtime.Namespace))
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(l.t.Context(), runtime.Namespace)
	if _, err := c.TaskService().Pause(ctx, &tasks.PauseTaskRequest{ContainerID: id}); err != nil {
		l.t.Fatal(err)
	}
}
