package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// others refuses of a Node what is not its manifest's to say: what its agent reports, and what the cluster itself decides.
func (c *checker) others(n *node, o *corev1.Node) {
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		if slices.Contains(kinds.OwnedLabels(), key) {
			c.tooMuch(n, "metadata.labels["+key+"]", "refused: the node's agent reports it, and no manifest may say otherwise")
		}
	}
	for i, t := range o.Spec.Taints {
		if slices.Contains(kinds.OwnedTaints(), t.Key) {
			c.tooMuch(n, fmt.Sprintf("spec.taints[%d].key", i), "refused: %s follows the node's conditions, and spec.unschedulable", t.Key)
		}
	}
	asks := []string{kinds.DrainNode, kinds.DrainLocalData, kinds.RemoveNode, kinds.LeaveData}
	for _, key := range slices.Sorted(maps.Keys(o.Annotations)) {
		at, value := "metadata.annotations["+key+"]", o.Annotations[key]
		switch {
		case !strings.HasPrefix(key, "lockstep.dev/"):
		case !slices.Contains(asks, key):
			c.tooMuch(n, at, "refused: of a node Lockstep acts on %s", strings.Join(asks, ", "))
		case value != "true" && value != "false":
			c.tooMuch(n, at, `want "true" or "false", got %q`, value)
		}
	}
	if kinds.Asked(o, kinds.DrainNode) && n.get("spec").get("unschedulable").says("false") {
		c.tooMuch(n, "spec.unschedulable", "refused: pods leave a node that is drained, and none may come")
	}
	for _, pair := range [][2]string{{kinds.DrainLocalData, kinds.DrainNode}, {kinds.LeaveData, kinds.RemoveNode}} {
		if kinds.Asked(o, pair[0]) && !kinds.Asked(o, pair[1]) {
			c.tooMuch(n, "metadata.annotations["+pair[0]+"]", "says something only beside %s", pair[1])
		}
	}
}

// says that a node is a scalar of that text.
func (n *node) says(text string) bool { return n != nil && n.shape == boolean && n.text == text }
