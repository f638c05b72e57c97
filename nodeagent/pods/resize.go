package pods

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// Resize is a change of a pod's resources that its node has not taken over.
type Resize struct {
	// Pod is as the API has it.
	Pod *corev1.Pod
	// Reason and Message say why it waits; empty: nobody has looked yet.
	Reason, Message string
}

// Take is what is wanted of a pod when the API has a newer object of it: its resources stay as they are until the node takes the
// change over.
func (w Wanted) Take(newer *corev1.Pod) Wanted {
	before := w.Resize
	w.Gone, w.Pod, w.Resize = false, sizedAs(newer, w.Pod), nil
	if !SameSize(w.Pod, newer) {
		w.Resize = &Resize{Pod: newer}
		if before != nil && SameSize(before.Pod, newer) {
			w.Resize.Reason, w.Resize.Message = before.Reason, before.Message
		}
	}
	return w
}

// SameSize says that two states of a pod, and their containers, have the same resources.
func SameSize(a, b *corev1.Pod) bool {
	same := func(a, b []corev1.Container) bool {
		return slices.EqualFunc(a, b, func(a, b corev1.Container) bool {
			return a.Name == b.Name && equality.Semantic.DeepEqual(a.Resources, b.Resources)
		})
	}
	return same(a.Spec.Containers, b.Spec.Containers) && same(a.Spec.InitContainers, b.Spec.InitContainers) &&
		equality.Semantic.DeepEqual(a.Spec.Resources, b.Spec.Resources)
}

// sizedAs is a pod with the resources that it, and the containers of the same names, have in another state of it.
func sizedAs(pod, as *corev1.Pod) *corev1.Pod {
	if SameSize(pod, as) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.Resources = as.Spec.Resources.DeepCopy()
	for _, of := range []struct{ to, from []corev1.Container }{
		{pod.Spec.InitContainers, as.Spec.InitContainers}, {pod.Spec.Containers, as.Spec.Containers},
	} {
		for i := range of.to {
			if at := slices.IndexFunc(of.from, func(c corev1.Container) bool { return c.Name == of.to[i].Name }); at >= 0 {
				of.to[i].Resources = *of.from[at].Resources.DeepCopy()
			}
		}
	}
	return pod
}

// Fits says why a pod's node cannot take the change of its resources over, beside the other pods: in the kubelet's words, and
// whether that may change. Empty: it can.
func Fits(allocatable corev1.ResourceList, others []Wanted, pod *corev1.Pod) (reason, message string) {
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		want, most := requests[name], allocatable[name]
		if want.Cmp(most) > 0 {
			values := [2]int64{want.Value(), most.Value()}
			if name == corev1.ResourceCPU {
				values = [2]int64{want.MilliValue(), most.MilliValue()}
			}
			return corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d",
				name, values[0], values[1])
		}
	}
	if _, message = Admit(allocatable, others, pod); message != "" {
		return corev1.PodReasonDeferred, message
	}
	return "", ""
}

// actual are the resources of a container as it runs.
func actual(c *corev1.Container, i Container) corev1.ResourceRequirements {
	if i.Resources == nil {
		return c.Resources
	}
	return *i.Resources
}

// actualOfPod are the pod's own resources as a container runs with them.
func actualOfPod(pod *corev1.Pod, i Container) *corev1.ResourceRequirements {
	if i.Resources == nil {
		return pod.Spec.Resources
	}
	return i.PodResources
}

// held is the limit of a container: its own, or its pod's where it has none. Zero: nothing.
func held(pod *corev1.ResourceRequirements, own corev1.ResourceRequirements, name corev1.ResourceName) resource.Quantity {
	if limit := own.Limits[name]; !limit.IsZero() || pod == nil {
		return limit
	}
	return pod.Limits[name]
}

// outgrown says that a container runs with other resources than it is to have, and whether it has to be restarted for them.
func outgrown(pod *corev1.Pod, c *corev1.Container, i Container) (resized, restart bool) {
	is, around := actual(c, i), actualOfPod(pod, i)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		had, wants := held(around, is, name), held(pod.Spec.Resources, c.Resources, name)
		same := is.Requests[name].Equal(c.Resources.Requests[name]) && had.Equal(wants)
		resized = resized || !same
		restart = restart || !same && slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
			return p.ResourceName == name && p.RestartPolicy == corev1.RestartContainer
		})
	}
	return resized, restart
}

func restartsFor(pod *corev1.Pod, c *corev1.Container, i Container) bool {
	_, restart := outgrown(pod, c, i)
	return restart
}

// Outgrown are the running containers whose resources change while they run.
func Outgrown(pod *corev1.Pod, live []Container) (those []Container) {
	for _, i := range live {
		if c := ContainerOf(pod, i.Name); c != nil && i.State == Running {
			if resized, restart := outgrown(pod, c, i); resized && !restart {
				those = append(those, i)
			}
		}
	}
	return those
}

// Largest is a pod as its cgroup has to hold it: with the most that each container has or is to have.
func Largest(pod *corev1.Pod, live []Container) *corev1.Pod {
	pod = pod.DeepCopy()
	for _, i := range live {
		c := ContainerOf(pod, i.Name)
		if c == nil || i.State == Exited || i.Resources == nil {
			continue
		}
		enlarge(&c.Resources, *i.Resources)
		if pod.Spec.Resources != nil && i.PodResources != nil {
			enlarge(pod.Spec.Resources, *i.PodResources)
		}
	}
	return pod
}

// enlarge makes resources no less than others.
func enlarge(r *corev1.ResourceRequirements, than corev1.ResourceRequirements) {
	for name, q := range r.Requests {
		if had := than.Requests[name]; had.Cmp(q) > 0 {
			r.Requests[name] = had
		}
	}
	for name, q := range r.Limits {
		if had, bounded := than.Limits[name]; !bounded {
			delete(r.Limits, name)
		} else if had.Cmp(q) > 0 {
			r.Limits[name] = had
		}
	}
}

// ContainerOf is the container, or init container, of a pod with that name; nil: it has none.
func ContainerOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		if at := slices.IndexFunc(cs, func(c corev1.Container) bool { return c.Name == name }); at >= 0 {
			return &cs[at]
		}
	}
	return nil
}

// ResizeNews is what the kubelet says of a change of resources: what has begun, "Pod resize started", and which resources there
// will be; problem is why not, or empty.
func ResizeNews(what string, pod *corev1.Pod, problem string) string {
	type sized struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	all := func(cs []corev1.Container) (list []sized) {
		for _, c := range cs {
			list = append(list, sized{c.Name, c.Resources})
		}
		return list
	}
	data, err := json.Marshal(struct {
		InitContainers []sized `json:"initContainers,omitempty"`
		Containers     []sized `json:"containers,omitempty"`
		Generation     int64   `json:"generation"`
		Error          string  `json:"error,omitempty"`
	}{all(pod.Spec.InitContainers), all(pod.Spec.Containers), pod.Generation, problem})
	if err != nil {
		return what
	}
	return what + ": " + string(data)
}
