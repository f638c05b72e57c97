package nodeagent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/pod"
)

// kernelFile reads what a cgroup has in a file, by the file's name in either version.
func (l *lab) kernelFile(path, v1, v2 string) string {
	l.t.Helper()
	controller, _, _ := strings.Cut(v1, ".")
	file := filepath.Join(cgroup.Mount, controller, path, v1)
	if cgroup.V2() {
		file = filepath.Join(cgroup.Mount, path, v2)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// TestTiers has a pod of each QoS class, and looks where the kernel has it and what the class has.
func TestTiers(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	node := machine.Cgroup(l.opts.NodeName)
	shares := func(tier string, v1, v2 uint64) {
		t.Helper()
		want := v1
		if cgroup.V2() {
			want = v2
		}
		l.eventually(fmt.Sprintf("%s has %d shares", tier, want), 10*time.Second, func() error {
			if got := l.kernelFile(filepath.Join(node, tier), "cpu.shares", "cpu.weight"); got != fmt.Sprint(want) {
				return fmt.Errorf("it has %s", got)
			}
			return nil
		})
	}
	shares("burstable", 2, 1)
	resources := map[string]corev1.ResourceRequirements{
		"besteffort": {},
		"burstable":  {Requests: corev1.ResourceList{"cpu": resource.MustParse("500m")}},
		"guaranteed": {Limits: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("32Mi")}},
	}
	for name, r := range resources {
		c := shell("main", forever)
		c.Resources = r
		l.bind(name, corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c}})
	}
	for name := range resources {
		p := l.running(name)
		tier := name
		if name == "guaranteed" {
			tier = ""
		}
		at := filepath.Join(node, tier, "pod"+string(p.UID))
		if pid := int(l.pids()[name+"/main"]); !cgroup.Within(pid, at) {
			t.Errorf("%s: process %d is not in %s", name, pid, at)
		}
		if got := l.kernelFile(at, "pids.max", "pids.max"); got != strconv.Itoa(DefaultPodPids) {
			t.Errorf("%s: %s processes at most", name, got)
		}
	}
	shares("burstable", 512, 20)
	shares("besteffort", 2, 1)
	for name := range resources {
		l.remove(name)
		l.gone(name)
	}
	shares("burstable", 2, 1)
	l.clean()
}

// TestEarlierTier has a pod as an earlier release left it, whose agents had all pods' cgroups directly below the node's: it runs on,
// and what is done with it is done there.
func TestEarlierTier(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("old", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", "while ! test -e /go; do sleep 0.1; done; exit 3")}})
	p := l.running("old")
	l.halt()

	node, own := machine.Cgroup(l.opts.NodeName), "pod"+string(p.UID)
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	for _, root := range cgroup.Hierarchies() {
		now := filepath.Join(root, node, "besteffort", own, id)
		then := filepath.Join(root, node, own, id)
		if _, err := os.Stat(now); err != nil {
			continue
		}
		if err := os.MkdirAll(then, 0o755); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(root) == "cpuset" {
			for _, dir := range []string{filepath.Dir(then), then} {
				for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
					data, err := os.ReadFile(filepath.Join(now, file))
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(dir, file), data, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		pids, err := os.ReadFile(filepath.Join(now, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range strings.Fields(string(pids)) {
			if err := os.WriteFile(filepath.Join(then, "cgroup.procs"), []byte(pid), 0); err != nil {
				t.Logf("process %s: %v", pid, err) // it has ended meanwhile
			}
		}
	}
	if err := cgroup.Remove(filepath.Join(node, "besteffort")); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(pod.SandboxDir(l.opts.RunDir, p.UID), pod.SandboxFile)
	data, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	if fields["tier"] != "besteffort" {
		t.Fatalf("the record is %s", data)
	}
	delete(fields, "tier")
	if data, err = json.Marshal(fields); err == nil {
		err = os.WriteFile(record, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	before := l.pids()["old/main"]
	l.start()
	l.ready()
	young := l.bind("young", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", forever)}})
	l.running("young")
	if pid := int(l.pids()["young/main"]); !cgroup.Within(pid, filepath.Join(node, "besteffort", "pod"+string(young.UID))) {
		t.Error("a pod that comes later is not where it belongs")
	}
	if after := l.pids()["old/main"]; after != before || l.pod("old").Status.ContainerStatuses[0].RestartCount != 0 {
		t.Fatalf("process %d, before it was %d: %+v", after, before, l.pod("old").Status)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", before), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.eventually("it was started again", 30*time.Second, func() error {
		if s := l.running("old").Status.ContainerStatuses[0]; s.RestartCount != 1 || s.LastTerminationState.Terminated.ExitCode != 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if pid := int(l.pids()["old/main"]); !cgroup.Within(pid, filepath.Join(node, own)) {
		t.Errorf("process %d is not in the cgroup of its pod", pid)
	}
	for _, name := range []string{"old", "young"} {
		l.remove(name)
		l.gone(name)
	}
	for _, root := range cgroup.Hierarchies() {
		if _, err := os.Stat(filepath.Join(root, node, own)); err == nil {
			t.Errorf("a cgroup is left in %s", root)
		}
	}
	l.clean()
}
