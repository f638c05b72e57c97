package spec

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

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

// rlimits are explicit, so that no container inherits its runtime's, but on machines on which the runtime may not set those of
// other users: without CAP_SYS_RESOURCE.
func rlimits(n Node, otherUsers bool) []specs.POSIXRlimit {
	if otherUsers && !slices.Contains(n.Capabilities, "CAP_SYS_RESOURCE") {
		return nil
	}
	hard := min(hardOpenFiles, n.MaxOpenFiles)
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: hard, Soft: min(softOpenFiles, hard)}}
}

// resources are the container's cgroup settings; runc turns shares into a
// weight where the machine has cgroup v2.
func resources(in Input) *specs.LinuxResources {
	r := ContainerLimits(in.Pod, in.Container, in.Node)
	if in.Node.CgroupV2 {
		unified(r, map[string]string{"memory.oom.group": "1"}) // Kubernetes kills all of a container together
	}
	r.Pids = pids(in.Node.PodPids)
	all := Privileged(in.Container)
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: all, Access: "rwm"}}
	return r
}

// ContainerLimits are those of a container's cgroup that may change while it runs. Where the container has none, those of its pod
// are its own, too.
func ContainerLimits(pod *corev1.Pod, c *corev1.Container, n Node) *specs.LinuxResources {
	requests, limits := maps.Clone(c.Resources.Requests), maps.Clone(c.Resources.Limits)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if own := limits[name]; own.IsZero() {
			if of := kinds.OwnLimit(pod, name); !of.IsZero() {
				set(&limits, name, of)
			}
		}
	}
	if _, ok := requests[corev1.ResourceCPU]; !ok {
		if limit, ok := limits[corev1.ResourceCPU]; ok {
			set(&requests, corev1.ResourceCPU, limit)
		}
	}
	r := Limits(requests, limits)
	if pod.Spec.Resources != nil {
		for name, q := range pod.Spec.Resources.Limits {
			if _, own := limits[name]; !own && kinds.HugePages(name) {
				set(&limits, name, q)
			}
		}
	}
	r.HugepageLimits = hugePages(n, limits)
	limitMemory(pod, c, n, r)
	return r
}

func set(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q
}

// Limits turns requests and limits of CPU and memory into cgroup settings: no
// CPU request gives the least shares, no limit sets no bound.
func Limits(requests, limits corev1.ResourceList) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(Shares(requests.Cpu().MilliValue()))}}
	if m := limits.Cpu().MilliValue(); m > 0 {
		r.CPU.Quota, r.CPU.Period = new(max(m*cpuPeriod/1000, minQuota)), new(uint64(cpuPeriod))
	}
	if m := limits.Memory().Value(); m > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &m}
	}
	return r
}

// hugePages are the limits of huge pages: of each size what is listed, and else none at all.
func hugePages(n Node, limits corev1.ResourceList) (all []specs.LinuxHugepageLimit) {
	for _, size := range n.HugePages {
		q := limits[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size)]
		all = append(all, specs.LinuxHugepageLimit{Pagesize: strings.TrimSuffix(size, "i") + "B", Limit: uint64(q.Value())})
	}
	return all
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

// PodLimits is what the pod's own cgroup gets, as the kubelet has it: what the pod requests, and its limit of what every one of its
// containers has a limit of; a RuntimeClass' overhead is among both. Its containers share the node's limit of processes.
func PodLimits(pod *corev1.Pod, n Node) *specs.LinuxResources {
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	limits := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limits[name] = kinds.PodLimit(pod, name)
	}
	r := Limits(requests, limits)
	r.HugepageLimits = hugePages(n, requests) // which are the limits, too
	limitPodMemory(pod, n, requests.Memory().Value(), r)
	r.Pids = pids(n.PodPids)
	return r
}

// Tier is the cgroup, below the node's, that a pod's own is in: that of its QoS class; empty: the node's, where Guaranteed pods are.
func Tier(pod *corev1.Pod) string {
	class := qos.GetPodQOS(pod)
	if class == corev1.PodQOSGuaranteed {
		return ""
	}
	return strings.ToLower(string(class))
}

// Tiers are the limits of the cgroups that Tier names when a node has these pods: what has no requests yields to everything, and
// Burstable pods have together what they request.
func Tiers(pods []*corev1.Pod, n Node) map[string]*specs.LinuxResources {
	milli, memory := int64(0), map[corev1.PodQOSClass]int64{}
	for _, pod := range pods {
		class, requests := qos.GetPodQOS(pod), helpers.PodRequests(pod, helpers.PodResourcesOptions{})
		memory[class] += requests.Memory().Value()
		if class == corev1.PodQOSBurstable {
			milli += requests.Cpu().MilliValue()
		}
	}
	shares := func(milli int64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(Shares(milli))}}
	}
	burstable := strings.ToLower(string(corev1.PodQOSBurstable))
	tiers := map[string]*specs.LinuxResources{burstable: shares(milli), strings.ToLower(string(corev1.PodQOSBestEffort)): shares(0)}
	if n.CgroupV2 { // what is kept for a pod has to be kept for all that is around it
		if !n.Memory.Tiered {
			clear(memory)
		}
		low := memory[corev1.PodQOSBurstable]
		unified(tiers[burstable], map[string]string{memoryLow: strconv.FormatInt(low, 10)})
		tiers[""] = &specs.LinuxResources{Unified: map[string]string{memoryLow: strconv.FormatInt(low, 10),
			memoryMin: strconv.FormatInt(low+memory[corev1.PodQOSGuaranteed], 10)}}
	}
	return tiers
}

// The scores of the kubelet: of who goes first, of who goes last, and between which others are.
const (
	firstToGo, lastToGo       = 1000, -997
	leastBurstable, mostOther = 1000 + lastToGo, firstToGo - 1
)

// oomScoreAdj follows Kubernetes:
// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior
func oomScoreAdj(in Input) int {
	score := firstToGo
	switch class := qos.GetPodQOS(in.Pod); {
	case kinds.Critical(in.Pod) && in.Pod.Spec.PriorityClassName == nodeCritical, class == corev1.PodQOSGuaranteed:
		score = lastToGo
	case class == corev1.PodQOSBurstable && in.Node.MemoryCapacity > 0:
		request := in.Container.Resources.Requests.Memory().Value()
		if isSidecar(in.Pod, in.Container) {
			request = max(request, leastRequest(in.Pod))
		}
		request += restOfRequest(in.Pod)
		score = min(max(int(1000-1000*request/in.Node.MemoryCapacity), leastBurstable), mostOther)
	}
	return max(score, in.Node.OOMFloor)
}

// nodeCritical is the class of the pods without which a node is none.
const nodeCritical = "system-node-critical"

func isSidecar(pod *corev1.Pod, c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways &&
		slices.ContainsFunc(pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name })
}

// restOfRequest is the part of each container in the memory that the pod requests beyond what its containers do.
func restOfRequest(pod *corev1.Pod) int64 {
	if !helpers.IsPodLevelRequestsSet(pod) {
		return 0
	}
	theirs := helpers.AggregateContainerRequests(pod, helpers.PodResourcesOptions{})
	rest := pod.Spec.Resources.Requests.Memory().Value() - theirs.Memory().Value()
	return max(rest, 0) / int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}

// leastRequest is the least memory that one of the pod's containers requests which are not there for others.
func leastRequest(pod *corev1.Pod) int64 {
	var least int64
	for i := range pod.Spec.Containers {
		if n := pod.Spec.Containers[i].Resources.Requests.Memory().Value(); i == 0 || n < least {
			least = n
		}
	}
	return least
}
