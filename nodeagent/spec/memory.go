package spec

import (
	"math"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"github.com/opencontainers/runtime-spec/specs-go"

	"lockstep/kinds"
)

// MemoryPolicy is what a node does for memory beside holding pods to their limits, in the kubelet's terms. The zero value is the
// kubelet's default. All of it wants cgroup v2.
type MemoryPolicy struct {
	// Tiered keeps what pods request from being reclaimed, of Guaranteed pods always and of Burstable ones as long as there is other
	// memory: memoryReservationPolicy TieredReservation.
	Tiered bool
	// Throttle is from where between its request and its limit, or what the node has, a container is slowed down: above 0, at most
	// 1; memoryThrottlingFactor. 0: it is not.
	Throttle float64
	// LimitedSwap lets containers of Burstable pods have the share of the node's swap that they request of its memory:
	// memorySwap.swapBehavior. Others, and without it all, have none.
	LimitedSwap bool
}

// The files of cgroup v2 that it is about.
const (
	memoryMin  = "memory.min"
	memoryLow  = "memory.low"
	memoryHigh = "memory.high"
	swapMax    = "memory.swap.max"
)

// page is the least that limits of memory differ by.
const page = 4096

// limitMemory adds what the node does for the memory of a container with these limits.
func limitMemory(pod *corev1.Pod, c *corev1.Container, n Node, r *specs.LinuxResources) {
	if !n.CgroupV2 {
		if n.SwapLimits && r.Memory != nil {
			r.Memory.Swap = r.Memory.Limit // memory and swap together: what exceeds its limit does not go on in swap
		}
		return
	}
	request, limit := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	values := reserve(n, qos.GetPodQOS(pod), request)
	if own := kinds.OwnLimit(pod, corev1.ResourceMemory); limit > 0 || own.IsZero() { // else the pod is slowed down as a whole
		high := limit
		if high == 0 {
			high = n.Allocatable.Memory().Value()
		}
		if request != limit || request == 0 {
			throttle(values, n, request, high)
		}
	}
	if n.SwapLimits {
		values[swapMax] = strconv.FormatInt(swapOf(pod, c, n), 10)
	}
	unified(r, values)
}

// limitPodMemory adds what the node does for the memory of a pod as a whole.
func limitPodMemory(pod *corev1.Pod, n Node, request int64, r *specs.LinuxResources) {
	if !n.CgroupV2 {
		return
	}
	values := reserve(n, qos.GetPodQOS(pod), request)
	if limit := kinds.PodLimit(pod, corev1.ResourceMemory); pod.Spec.Resources != nil && !limit.IsZero() && request != limit.Value() {
		throttle(values, n, request, limit.Value())
	}
	unified(r, values)
}

// reserve are the values by which requested memory is kept.
func reserve(n Node, class corev1.PodQOSClass, request int64) map[string]string {
	values := map[string]string{}
	switch {
	case !n.Memory.Tiered || request == 0:
	case class == corev1.PodQOSGuaranteed:
		values[memoryMin] = strconv.FormatInt(request, 10)
	default:
		values[memoryLow] = strconv.FormatInt(request, 10)
	}
	return values
}

// throttle adds from where on memory is reclaimed at once, between a request and a limit.
func throttle(values map[string]string, n Node, request, limit int64) {
	high := int64(math.Floor((float64(request)+float64(limit-request)*n.Memory.Throttle)/page)) * page
	if n.Memory.Throttle > 0 && high > request {
		values[memoryHigh] = strconv.FormatInt(high, 10)
	}
}

// swapOf is what a container may have of the node's swap, in bytes.
func swapOf(pod *corev1.Pod, c *corev1.Container, n Node) int64 {
	request, limit := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	if !n.Memory.LimitedSwap || qos.GetPodQOS(pod) != corev1.PodQOSBurstable || kinds.Critical(pod) || request == limit ||
		request > n.MemoryCapacity {
		return 0
	}
	return int64(float64(request) / float64(n.MemoryCapacity) * float64(n.Swap))
}

func unified(r *specs.LinuxResources, values map[string]string) {
	for name, value := range values {
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified[name] = value
	}
}
