package admission

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

// run gives a pod the overhead of its RuntimeClass, and has it placed as that says, as Kubernetes' plugin RuntimeClass does.
func run(spec *corev1.PodSpec, in Cluster) *field.Error {
	at := field.NewPath("spec")
	var class *nodev1.RuntimeClass
	if name := spec.RuntimeClassName; name != nil {
		class, _ = in.Get(kinds.For[*nodev1.RuntimeClass]().Key("", *name)).(*nodev1.RuntimeClass)
		if class == nil {
			return field.Forbidden(at.Child("runtimeClassName"), fmt.Sprintf("pod rejected: RuntimeClass %q not found", *name))
		}
	}
	if class == nil || class.Overhead == nil {
		if spec.Overhead != nil {
			return field.Forbidden(at.Child("overhead"),
				"pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
		}
	} else {
		if len(spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, spec.Overhead) {
			return field.Forbidden(at.Child("overhead"), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class == nil || class.Scheduling == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(class.Scheduling.NodeSelector)) {
		value := class.Scheduling.NodeSelector[key]
		if stated, ok := spec.NodeSelector[key]; ok && stated != value {
			return field.Forbidden(at.Child("nodeSelector").Key(key), fmt.Sprintf(
				"conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, stated))
		}
	}
	if len(class.Scheduling.NodeSelector) > 0 {
		selector := maps.Clone(spec.NodeSelector)
		if selector == nil {
			selector = map[string]string{}
		}
		maps.Copy(selector, class.Scheduling.NodeSelector)
		spec.NodeSelector = selector
	}
	spec.Tolerations = together(spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// together are the tolerations of both without those that another one comprises; of equal ones the first stays.
func together(first, second []corev1.Toleration) []corev1.Toleration {
	all := slices.Concat(first, second)
	var out []corev1.Toleration
	for i, t := range all {
		comprises := func(other corev1.Toleration) bool { return comprises(other, t) }
		more := func(other corev1.Toleration) bool {
			return !apiequality.Semantic.DeepEqual(t, other) && comprises(other)
		}
		if !slices.ContainsFunc(out, comprises) && !slices.ContainsFunc(all[i+1:], more) {
			out = append(out, t)
		}
	}
	return out
}

// comprises says whether wide tolerates whatever t does.
func comprises(wide, t corev1.Toleration) bool {
	switch {
	case apiequality.Semantic.DeepEqual(wide, t):
		return true
	case t.Key != wide.Key && (wide.Key != "" || wide.Operator != corev1.TolerationOpExists):
		return false
	case t.Effect != wide.Effect && wide.Effect != "":
		return false
	case wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	}
	switch wide.Operator {
	case corev1.TolerationOpEqual, "":
		return t.Operator == corev1.TolerationOpEqual && t.Value == wide.Value
	case corev1.TolerationOpExists:
		return true
	default:
		return false
	}
}
