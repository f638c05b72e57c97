package spec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/kinds"
)

const (
	cpuPeriod = 100_000 // µs, the kernel's and Kubernetes' default
	minQuota  = 1_000   // µs, the least the kernel takes
	minShares = 2       // the least the kernel takes
	maxShares = 262_144 // the most the kernel takes

	// Limits of open files that containerd recommends (docs/containerd-2.0.md,
	// "LimitNOFILE"), which are systemd's: programs that loop over all possible
	// descriptors, or size tables by them, take no harm from the soft one, and
	// those that want more raise it. Without these the containers would have
	// what containerd happens to have, up to a billion.
	softOpenFiles = 1024
	hardOpenFiles = 524_288
)

// rlimits are explicit, so that no container inherits its runtime's.
func rlimits(n Node) []specs.POSIXRlimit {
	hard := min(hardOpenFiles, n.MaxOpenFiles)
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: hard, Soft: min(softOpenFiles, hard)}}
}

// resources are the container's cgroup settings; runc turns shares into a
// weight where the machine has cgroup v2.
func resources(in Input) *specs.LinuxResources {
	r := ContainerLimits(in.Container, in.Node)
	if in.Node.CgroupV2 && r.Memory != nil {
		// Kubernetes kills all of a container together.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	r.Pids = pids(in.Node.PodPids)
	all := Privileged(in.Container)
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: all, Access: "rwm"}}
	return r
}

// ContainerLimits are those of a container's cgroup that may change while it runs.
func ContainerLimits(c *corev1.Container, n Node) *specs.LinuxResources {
	r := Limits(c.Resources.Requests, c.Resources.Limits)
	if r.Memory == nil {
		return r
	}
	if n.CgroupV2 || n.SwapLimits {
		r.Memory.Swap = r.Memory.Limit // memory and swap together: what exceeds its limit does not go on in swap
	}
	return r
}

// Limits turns requests and limits into cgroup settings without devices: no
// CPU request gives the least shares, no limit sets no bound.
func Limits(requests, limits corev1.ResourceList) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(Shares(requests.Cpu().MilliValue()))}}
	if m := limits.Cpu().MilliValue(); m > 0 {
		r.CPU.Quota, r.CPU.Period = new(max(m*cpuPeriod/1000, minQuota)), new(uint64(cpuPeriod))
	}
	if m := limits.Memory().Value(); m > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &m}
	}
	for name, q := range limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{
				Pagesize: strings.TrimSuffix(size, "i") + "B",
				Limit:    uint64(q.Value()),
			})
		}
	}
	return r
}

// Shares is the cgroup v1 weight of a CPU request in millicores.
func Shares(milli int64) uint64 {
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// pids bounds processes and threads; zero is no bound.
func pids(limit int64) *specs.LinuxPids {
	if limit <= 0 {
		return nil
	}
	return &specs.LinuxPids{Limit: &limit}
}

// PodLimits is what the pod's own cgroup gets: the sum of requests, and the sum
// of limits where every container states one; overhead is added. Its containers
// share the node's limit of processes.
func PodLimits(pod *corev1.Pod, n Node) *specs.LinuxResources {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		bounded := true
		for i := range pod.Spec.Containers {
			res := pod.Spec.Containers[i].Resources
			add(requests, name, res.Requests)
			if _, ok := res.Limits[name]; !ok {
				bounded = false
			}
			add(limits, name, res.Limits)
		}
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if c.RestartPolicy != nil {
				add(requests, name, c.Resources.Requests)
				add(limits, name, c.Resources.Limits)
			}
			if _, ok := c.Resources.Limits[name]; !ok {
				bounded = false
			}
			raise(requests, name, c.Resources.Requests)
			raise(limits, name, c.Resources.Limits)
		}
		add(requests, name, pod.Spec.Overhead)
		if !bounded {
			delete(limits, name)
		} else {
			add(limits, name, pod.Spec.Overhead)
		}
	}
	r := Limits(requests, limits)
	r.Pids = pids(n.PodPids)
	return r
}

func add(sum corev1.ResourceList, name corev1.ResourceName, list corev1.ResourceList) {
	if q, ok := list[name]; ok {
		s := sum[name].DeepCopy()
		s.Add(q)
		sum[name] = s
	}
}

func raise(most corev1.ResourceList, name corev1.ResourceName, list corev1.ResourceList) {
	if q, ok := list[name]; ok {
		if m := most[name]; q.Cmp(m) > 0 {
			most[name] = q.DeepCopy()
		}
	}
}

// oomScoreAdj follows Kubernetes:
// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior
func oomScoreAdj(in Input) int {
	score := 1000
	switch qos := in.Pod.Status.QOSClass; {
	case kinds.Critical(in.Pod), qos == corev1.PodQOSGuaranteed:
		score = -997
	case qos == corev1.PodQOSBurstable && in.Node.MemoryCapacity > 0:
		request := in.Container.Resources.Requests.Memory().Value()
		score = min(max(int(1000-1000*request/in.Node.MemoryCapacity), 3), 999)
	}
	return max(score, in.Node.OOMFloor)
}
