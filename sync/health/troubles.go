package health

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// asWanted tells what a condition of a node is while all is well; false: the condition is for people to read, as drain's.
func asWanted(c corev1.NodeConditionType) (corev1.ConditionStatus, bool) {
	switch c {
	case corev1.NodeReady, kinds.NodeClock, kinds.NodeIngress:
		return corev1.ConditionTrue, true
	case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable:
		return corev1.ConditionFalse, true
	default:
		return "", false
	}
}

// Troubles says what is not well with a node, in the order of its conditions: that it is silent, or else what it or the control
// plane says of it. Nil: nothing, or there is no such node.
func Troubles(v *view.View, node string, now time.Time) []string {
	if silence := Silence(v, node, now); silence != "" {
		return []string{silence}
	}
	n, ok := view.Get[*corev1.Node](v, "", node)
	if !ok {
		return nil
	}
	var out []string
	for _, c := range n.Status.Conditions {
		if want, judged := asWanted(c.Type); !judged || c.Status == want {
			continue
		}
		said := string(c.Type) + ": " + string(c.Status)
		if c.Message != "" {
			said = c.Message
		}
		if !slices.Contains(out, said) {
			out = append(out, said)
		}
	}
	return out
}
