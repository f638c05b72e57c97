package health

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// withoutRules says which nodes tell that they cannot write the rules of services; empty: none does. Any node may be where
// a service is asked from. Those that are silent, or on their way out, are left to whoever judges nodes.
func withoutRules(v *view.View) string {
	first, message, more := "", "", 0
	for n := range view.List[*corev1.Node](v, "") {
		told, lacks := lacksRules(n)
		switch {
		case !lacks:
		case first == "":
			first, message = n.Name, told
		default:
			more++
		}
	}
	switch {
	case first == "":
		return ""
	case more > 0:
		return fmt.Sprintf("no service rules on node %s and %d more: %s", first, more, message)
	}
	return fmt.Sprintf("no service rules on node %s: %s", first, message)
}

// lacksRules says whether a node that is heard of lacks rules, and why.
func lacksRules(n *corev1.Node) (why string, lacks bool) {
	if n == nil || n.DeletionTimestamp != nil {
		return "", false
	}
	if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil && c.Status == corev1.ConditionUnknown {
		return "", false
	}
	if c := kinds.NodeCondition(n, kinds.NodeServiceRules); c != nil && c.Status == corev1.ConditionFalse {
		return c.Message, true
	}
	return "", false
}

// rulesChanged says whether services may be judged anew because of a node's change; either may be nil.
func rulesChanged(old, new kinds.Object) bool {
	before, _ := old.(*corev1.Node)
	after, _ := new.(*corev1.Node)
	was, lacked := lacksRules(before)
	is, lacks := lacksRules(after)
	return was != is || lacked != lacks
}

// ruled says whether nodes write rules for a service: it has an address of its own.
func ruled(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}
