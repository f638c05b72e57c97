package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	requests "k8s.io/component-helpers/resource"

	"lockstep/kinds/quantity"
)

// amounts are quantities of resources: CPU in millicores, memory and ephemeral storage in bytes, others as they are.
type amounts struct {
	cpu, memory, storage int64
	scalar               map[corev1.ResourceName]int64 // extended resources, huge pages; nil for none
}

// amountsOf reads a resource list; the number of pods in it is returned apart.
func amountsOf(list corev1.ResourceList) (a amounts, pods int64) {
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = quantity.Milli(&q)
		case corev1.ResourceMemory:
			a.memory = quantity.Value(&q)
		case corev1.ResourceEphemeralStorage:
			a.storage = quantity.Value(&q)
		case corev1.ResourcePods:
			pods = quantity.Value(&q)
		default:
			if v := quantity.Value(&q); v != 0 {
				if a.scalar == nil {
					a.scalar = map[corev1.ResourceName]int64{}
				}
				a.scalar[name] = v
			}
		}
	}
	return a, pods
}

// requestsOf returns what a pod requests in all, init containers and overhead included, as Kubernetes counts it: while its
// resources change, the larger ones.
func requestsOf(p *corev1.Pod) amounts {
	a, _ := amountsOf(requests.PodRequests(p, counted()))
	return a
}

// counted is how a pod's requests are counted.
func counted() requests.PodResourcesOptions {
	return requests.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
}

// add adds b times sign, which is 1 or -1.
func (a *amounts) add(b amounts, sign int64) {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	for name, v := range b.scalar {
		if a.scalar == nil {
			a.scalar = map[corev1.ResourceName]int64{}
		}
		if a.scalar[name] += sign * v; a.scalar[name] == 0 {
			delete(a.scalar, name)
		}
	}
}

func (a amounts) equal(b amounts) bool {
	return a.cpu == b.cpu && a.memory == b.memory && a.storage == b.storage && maps.Equal(a.scalar, b.scalar)
}

func (a amounts) clone() amounts {
	a.scalar = maps.Clone(a.scalar)
	return a
}

// What scoring takes for a container that requests nothing, so that such pods do not all look free: as kube-scheduler.
const (
	presumedCPU    = 100
	presumedMemory = 200 << 20
)

// weightOf returns the requests as scoring sees them: each container at least what is presumed where it says nothing.
func weightOf(p *corev1.Pod) (cpu, memory int64) {
	options := counted()
	options.NonMissingContainerRequests = presumed()
	if requests.IsPodLevelRequestsSet(p) { // what the pod asks for itself, it asks for whole
		stated := requests.PodRequests(p, counted())
		maps.DeleteFunc(options.NonMissingContainerRequests, func(name corev1.ResourceName, _ resource.Quantity) bool {
			_, ok := stated[name]
			return ok
		})
	}
	a, _ := amountsOf(requests.PodRequests(p, options))
	return a.cpu, a.memory
}

func presumed() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(presumedCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(presumedMemory, resource.BinarySI),
	}
}

// plainly returns what requestsOf and weightOf do for the pods that most are, which ask for something by their containers only and do
// not change: it makes nothing but the sum, for 150,000 pods at a start. False: the pod is another one.
func plainly(p *corev1.Pod) (a amounts, cpu, memory int64, plain bool) {
	if len(p.Spec.InitContainers) > 0 || p.Spec.Overhead != nil || p.Spec.Resources != nil {
		return a, 0, 0, false
	}
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.Resources != nil || s.AllocatedResources != nil {
			return a, 0, 0, false
		}
	}
	for i := range p.Spec.Containers {
		var asksCPU, asksMemory bool
		for name, q := range p.Spec.Containers[i].Resources.Requests {
			value := quantity.Value(&q)
			switch name {
			case corev1.ResourceCPU:
				value = quantity.Milli(&q)
				a.cpu, asksCPU = a.cpu+value, true
				if whole := resource.NewMilliQuantity(value, resource.DecimalSI); q.Cmp(*whole) != 0 {
					return a, 0, 0, false // parts of what is counted in: sums are rounded, not what is summed
				}
				continue
			case corev1.ResourceMemory:
				a.memory, asksMemory = a.memory+value, true
			case corev1.ResourceEphemeralStorage:
				a.storage += value
			default:
				return a, 0, 0, false
			}
			if q.CmpInt64(value) != 0 {
				return a, 0, 0, false
			}
		}
		if !asksCPU {
			cpu += presumedCPU
		}
		if !asksMemory {
			memory += presumedMemory
		}
	}
	return a, cpu + a.cpu, memory + a.memory, true
}
