package kinds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NodeServiceRules is the condition by which a node tells whether its kernel has the rules of all services. A node that
// says nothing of it has them. It is no condition of Kubernetes: there nobody is told.
const NodeServiceRules corev1.NodeConditionType = "ServiceRules"

// NodeDrained is the condition by which a node that is being drained tells how far that is: False while pods are to leave it. It is no
// condition of Kubernetes, where who drains is the one that knows.
const NodeDrained corev1.NodeConditionType = "Drained"

// What the manifest of a node may ask for, as annotations whose value is "true".
const (
	// DrainNode asks that pods leave the node, and that no others come.
	DrainNode = "lockstep.dev/drain"
	// DrainLocalData asks that pods leave, too, whose claims have their data on this node alone.
	DrainLocalData = "lockstep.dev/drain-local-data"
	// RemoveNode asks that the node is taken out of the cluster, as "lockstep node remove" does.
	RemoveNode = "lockstep.dev/remove"
	// LeaveData says that data of claims stay on the machine of a node that is removed.
	LeaveData = "lockstep.dev/leave-data"
)

// ClockSkew is the annotation of a node's heartbeat that says how far its clock is ahead of the control plane's, or, below zero, behind;
// it is there where that is more than a request takes.
const ClockSkew = "lockstep.dev/clock-skew"

// NodeClock is the condition by which that is told of a node. It is no condition of Kubernetes.
const NodeClock corev1.NodeConditionType = "ClockInSync"

// AgentLabels is the annotation in which a node's agent lists the labels that it was started with, sorted and between commas.
const AgentLabels = "lockstep.dev/agent-labels"

// StatedCapacity is the annotation of a node that has the extended resources which its manifest states as status.capacity, sorted, as
// example.com/licence=4,example.com/seat=2. Its agent reports them with its own.
const StatedCapacity = "lockstep.dev/stated-capacity"

// StateCapacity is the value of that annotation; empty for none.
func StateCapacity(list corev1.ResourceList) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		quantity := list[name]
		out = append(out, string(name)+"="+quantity.String())
	}
	return strings.Join(out, ",")
}

// CapacityStated reads that annotation. What cannot be read is left out.
func CapacityStated(n *corev1.Node) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, one := range strings.Split(n.Annotations[StatedCapacity], ",") {
		name, text, _ := strings.Cut(one, "=")
		if quantity, err := resource.ParseQuantity(text); err == nil && name != "" {
			out[corev1.ResourceName(name)] = quantity
		}
	}
	return out
}

// Asked says that a node's annotation of that name is "true".
func Asked(n *corev1.Node, annotation string) bool { return n.Annotations[annotation] == "true" }

// NodeOf is the node that a pod is bound to; empty for one that is bound to none, and for whatever is no pod.
func NodeOf(o Object) string {
	if p, ok := o.(*corev1.Pod); ok && p != nil {
		return p.Spec.NodeName
	}
	return ""
}

// RootCA is the ConfigMap with the API's authority that every namespace has.
const RootCA = "kube-root-ca.crt"

// DefaultAccount is the service account of pods that name none, which every namespace gets.
const DefaultAccount = "default"

// AccountOf is the name of a pod's service account.
func AccountOf(p *corev1.Pod) string { return cmp.Or(p.Spec.ServiceAccountName, DefaultAccount) }

// NodeReady says that the node's Ready condition is true.
func NodeReady(n *corev1.Node) bool {
	c := NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// NodeSilent says that a node was heard of, and is not any more: its Ready condition is Unknown.
func NodeSilent(n *corev1.Node) bool {
	c := NodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}

// NodeCondition returns the node's condition of that type, or nil. It is the node's own.
func NodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// OwnedLabels are those that every node's agent reports of its machine.
func OwnedLabels() []string {
	return []string{
		corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	}
}

// OwnedTaints are the taints that follow a node's conditions and its cordon, by key: the cluster itself sets them and takes them away.
func OwnedTaints() []string {
	return []string{
		corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
		corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
	}
}

// heartbeats are what tells for how long a node has been silent.
func heartbeats() []Read {
	return []Read{{coordination().WithKind("Lease"), func(_, _ Object) bool { return false }}}
}

// nodeHealth is of a node that a manifest states: it is ready, unless it is meant not to be; or its pods have left it, where that is
// asked for.
func nodeHealth(n *corev1.Node, see Sight) Health {
	if Asked(n, DrainNode) {
		switch c := NodeCondition(n, NodeDrained); {
		case c == nil:
			return Health{Cause: "draining"}
		case c.Status != corev1.ConditionTrue:
			return Health{Cause: "draining: " + c.Message}
		}
		return Health{State: Healthy}
	}
	c := NodeCondition(n, corev1.NodeReady)
	switch {
	case c != nil && c.Status == corev1.ConditionTrue, OutOfService(n), n.Spec.Unschedulable:
		return Health{State: Healthy}
	case c == nil:
		return Health{Cause: "has not said yet whether it is ready"}
	case c.Status == corev1.ConditionUnknown:
		return Health{State: Failed, Cause: "NotReady", Silence: see.Silence(n.Name)}
	}
	return Health{State: Failed, Cause: "NotReady: " + c.Message}
}

// withoutRules says which nodes tell that they cannot write the rules of services; empty: none does. Any node may be where
// a service is asked from. Those that are silent, or on their way out, are left to whoever judges nodes.
func withoutRules(see Sight) string {
	first, message, more := "", "", 0
	for o := range see.List(schema.GroupResource{Resource: "nodes"}, "") {
		told, lacks := lacksRules(o.(*corev1.Node))
		switch {
		case !lacks:
		case first == "":
			first, message = o.GetName(), told
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
	if NodeSilent(n) {
		return "", false
	}
	if c := NodeCondition(n, NodeServiceRules); c != nil && c.Status == corev1.ConditionFalse {
		return c.Message, true
	}
	return "", false
}

// rulesChanged says whether services may be judged anew because of a node's change; either may be nil.
func rulesChanged(old, new Object) bool {
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
