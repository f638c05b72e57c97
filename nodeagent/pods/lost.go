package pods

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds/podstatus"
)

// Replaced returns which pods of a lost history of the cluster may end: those whose place one of the present pods of this
// node has taken, in a ready state, or at all where both want a port of the node. A present pod takes one place: of a pod
// of the same namespace and controller, by kind and name, or of the same name where neither has a controller.
func Replaced(lost, present []*corev1.Pod) []types.UID {
	heirs := map[string][]*corev1.Pod{}
	for _, p := range present {
		heirs[placeOf(p)] = append(heirs[placeOf(p)], p)
	}
	for _, list := range heirs { // those that are ready first
		slices.SortStableFunc(list, func(a, b *corev1.Pod) int { return rank(a) - rank(b) })
	}
	lost = slices.Clone(lost)
	slices.SortFunc(lost, func(a, b *corev1.Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	var out []types.UID
	for _, p := range lost {
		place := placeOf(p)
		if left := heirs[place]; len(left) > 0 && (rank(left[0]) == 0 || takesPorts(p)) {
			out = append(out, p.UID)
			heirs[place] = left[1:]
		}
	}
	return out
}

func placeOf(p *corev1.Pod) string {
	if c := metav1.GetControllerOfNoCopy(p); c != nil {
		return p.Namespace + "/" + c.Kind + "/" + c.Name
	}
	return p.Namespace + "//" + p.Name
}

// rank is 0 for a pod that is ready.
func rank(p *corev1.Pod) int {
	if podstatus.Ready(&p.Status) {
		return 0
	}
	return 1
}

// takesPorts says whether a second pod like this one could not listen beside it.
func takesPorts(p *corev1.Pod) bool {
	return p.Spec.HostNetwork || slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.HostPort != 0 })
	})
}
