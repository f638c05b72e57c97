package pods

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// Devices are those of a pod's containers, by the containers' names.
type Devices map[string][]string

// Held are all of them.
func (d Devices) Held() map[string]bool {
	held := map[string]bool{}
	for _, names := range d {
		for _, name := range names {
			held[name] = true
		}
	}
	return held
}

// Assign gives a pod's containers devices of the node, which are listed by their resources in the order in which they are
// given; those that are held are other pods'. What an init container has had, the containers after it get. The error is in the
// kubelet's words.
func Assign(healthy map[corev1.ResourceName][]string, held map[string]bool, pod *corev1.Pod) (Devices, error) {
	given, used := Devices{}, map[string]bool{}
	maps.Copy(used, held)
	var again []string // those of init containers that end
	for i, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			limit := c.Resources.Limits[name]
			devices, some := healthy[name]
			want := int(limit.Value())
			if !some || want == 0 {
				continue
			}
			if len(devices) == 0 {
				return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
			}
			first := slices.DeleteFunc(slices.Clone(again), func(d string) bool { return !slices.Contains(devices, d) })
			free := slices.DeleteFunc(slices.Clone(devices), func(d string) bool { return used[d] })
			if more := want - len(first); more > len(free) {
				return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d",
					name, more, len(free))
			}
			for _, device := range slices.Concat(first, free)[:want] {
				given[c.Name], used[device] = append(given[c.Name], device), true
			}
		}
		again = slices.DeleteFunc(again, func(d string) bool { return slices.Contains(given[c.Name], d) })
		if i < len(pod.Spec.InitContainers) && !podstatus.Sidecar(&c) {
			again = append(again, given[c.Name]...)
		}
	}
	return given, nil
}
