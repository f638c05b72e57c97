package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

func isNode(k kinds.Key) bool {
	return kinds.ForResource(k.GroupResource()) == kinds.For[*corev1.Node]()
}

// node is the step for a node. A manifest never makes one: it states some labels, annotations and taints of a machine that joins by
// itself, waits for that, and takes back no more than it gave.
func node(step Step, then *after, now time.Time) (Step, bool) {
	entry := step.Entry
	live, there := step.Live.(*corev1.Node)
	stated, err := statedNode(entry.Key, entry.Object)
	before := stated
	if err == nil && entry.State == Pending {
		before, err = statedNode(entry.Key, entry.Before)
	}
	switch {
	case err != nil:
		step.Verb, step.Reason = Refuse, err.Error()
		return step, true
	case entry.State == Pruning && !there:
		step.Verb, step.Reason = Keep, "no longer stated, and not there"
		return step, true
	case entry.State == Pruning:
		if len(entry.Before) > 0 { // the content before this one is what the node has
			if before, err = statedNode(entry.Key, entry.Before); err != nil {
				before = stated
			}
		}
		return changeNode(step, live, before, &corev1.Node{}, then, now)
	case !there && kinds.Asked(stated, kinds.RemoveNode):
		return removed(step)
	case !there:
		step.Verb, step.Reason = Wait, "it has not joined the cluster yet, and is as stated once it does"
		return step, true
	case live.DeletionTimestamp != nil:
		step.Verb, step.Reason = Wait, "it is being deleted"
		return step, true
	case kinds.Asked(stated, kinds.RemoveNode):
		return remove(step, live, stated, then, now), true
	}
	if why := agentSays(live, stated); why != "" {
		step.Verb, step.Reason = Wait, why
		return step, true
	}
	return changeNode(step, live, before, stated, then, now)
}

// statedNode reads what a manifest states; of nothing it is a node without anything. Pods leave a node that is drained and no others
// come: that is stated with it. The capacity is told to the agent, which reports what the node has.
func statedNode(k kinds.Key, stated []byte) (*corev1.Node, error) {
	if len(stated) == 0 {
		return &corev1.Node{}, nil
	}
	o, err := decode(k, stated)
	if err != nil {
		return nil, err
	}
	n, ok := o.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("cannot read %v: it is no node", k)
	}
	n.Spec.Unschedulable = n.Spec.Unschedulable || kinds.Asked(n, kinds.DrainNode)
	if stated := kinds.StateCapacity(n.Status.Capacity); stated != "" {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[kinds.StatedCapacity] = stated
	}
	return n, nil
}

// agentSays finds a label that the node's agent was started with another value of. The two would change it for ever. It holds up
// this node alone, since an agent says what it likes.
func agentSays(live, stated *corev1.Node) string {
	own := strings.Split(live.Annotations[kinds.AgentLabels], ",")
	for _, key := range slices.Sorted(maps.Keys(stated.Labels)) {
		has, there := live.Labels[key]
		if there && has != stated.Labels[key] && slices.Contains(own, key) {
			return fmt.Sprintf("metadata.labels[%s]: the node's agent says %q: change its --label", key, has)
		}
	}
	return ""
}

// changeNode gives a node what is stated now, and takes from it what was before and is no more. All else is of others.
func changeNode(step Step, live, before, stated *corev1.Node, then *after, now time.Time) (Step, bool) {
	merged := live.DeepCopy()
	merged.Labels = overlay(live.Labels, before.Labels, stated.Labels)
	merged.Annotations = overlay(live.Annotations, before.Annotations, stated.Annotations)
	merged.Spec.Taints = overlayTaints(live.Spec.Taints, before.Spec.Taints, stated.Spec.Taints, now)
	switch {
	case stated.Spec.Unschedulable:
		merged.Spec.Unschedulable = true
	case before.Spec.Unschedulable:
		merged.Spec.Unschedulable = false
	}
	step.Entry.Ended = ""
	if apiequality.Semantic.DeepEqual(merged, live) {
		step.Verb, step.Reason = Keep, "as stated"
		return step, step.Entry.State != Applied
	}
	changes := Differences(live, merged)
	if errs := then.rules.PrepareUpdate(merged, live); len(errs) > 0 {
		step.Verb, step.Field, step.Reason = Refuse, errs[0].Field, explain(&step, errs, changes)
		return step, true
	}
	step.Verb, step.Object = Update, merged
	switch {
	case step.Entry.State == Pruning:
		step.Reason = "no longer stated, and the node stays: " + paths(changes)
	case step.Entry.State == Applied:
		step.Drift, step.Reason = true, "changed by hand: "+paths(changes)
	default:
		step.Reason = "stated anew: " + paths(changes)
	}
	return step, true
}

// overlay is live with what is stated now, and without what was and is no more. What somebody else has made of the latter stays.
func overlay(live, before, now map[string]string) map[string]string {
	out := maps.Clone(live)
	for key, value := range before {
		if _, still := now[key]; !still && out[key] == value {
			delete(out, key)
		}
	}
	if len(now) > 0 && out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, now)
	return out
}

// overlayTaints does the same with taints, which are told apart by key and effect.
func overlayTaints(live, before, stated []corev1.Taint, now time.Time) []corev1.Taint {
	out := slices.Clone(live)
	for _, t := range before {
		same := sameTaint(t)
		if !slices.ContainsFunc(stated, same) {
			out = slices.DeleteFunc(out, same)
		}
	}
	for _, t := range stated {
		t.TimeAdded = &metav1.Time{Time: now.Truncate(time.Second)}
		switch i := slices.IndexFunc(out, sameTaint(t)); {
		case i < 0:
			out = append(out, t)
		case out[i].Value != t.Value:
			out[i] = t
		}
	}
	return out
}

func sameTaint(t corev1.Taint) func(corev1.Taint) bool {
	return func(o corev1.Taint) bool { return o.MatchTaint(&t) }
}

// drains names the local data of the pods that a node is to lose; empty: it is not drained now, or there are none.
func drains(live, stated *corev1.Node, v *view.View) string {
	if kinds.Asked(live, kinds.DrainNode) || !kinds.Asked(stated, kinds.DrainNode) {
		return ""
	}
	var scratch, stay []string
	for p := range v.PodsOnNode(live.Name) {
		switch {
		case kinds.StaysOnDrain(p):
		case len(kinds.ClaimsOnlyOn(p, live.Name, v)) > 0:
			stay = append(stay, p.Namespace+"/"+p.Name)
		case slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil }):
			scratch = append(scratch, p.Namespace+"/"+p.Name)
		}
	}
	var texts []string
	if len(stay) > 0 && kinds.Asked(stated, kinds.DrainLocalData) {
		texts = append(texts, "have data of claims on it, and wait for it: "+some(stay))
	} else if len(stay) > 0 {
		texts = append(texts, "stay, since data of their claims are on it alone ("+kinds.DrainLocalData+"): "+some(stay))
	}
	if len(scratch) > 0 {
		texts = append(texts, "lose what is in their emptyDir: "+some(scratch))
	}
	return strings.Join(texts, "; ")
}

// some lists sorted names, no more than a hold names.
func some(names []string) string {
	slices.Sort(names)
	if more := len(names) - maxClaims; more > 0 {
		names = append(names[:maxClaims], fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// remove takes a node out of the cluster, unless data of claims would be left behind that nobody has said may be.
func remove(step Step, live, stated *corev1.Node, then *after, now time.Time) Step {
	if left := dataOn(live, then.view); len(left) > 0 && !kinds.Asked(stated, kinds.LeaveData) {
		step.Verb, step.Field = Refuse, "metadata.annotations["+kinds.RemoveNode+"]"
		step.Reason = fmt.Sprintf("%s: data of claims are on its machine alone; copy them first, or leave them there with %s: %s",
			step.Field, kinds.LeaveData, some(left))
		return step
	}
	step.Verb, step.Reason, step.Entry.Ended = Remove, "taken out of the cluster: its manifest says so", Complete
	if changed, gone := then.rules.Delete(live, now); !gone {
		step.Object = changed
	}
	return step
}

// removed notes that a node which is to be taken out of the cluster is not in it.
func removed(step Step) (Step, bool) {
	step.Verb, step.Reason = Keep, "as stated: it is not in the cluster"
	if step.Entry.Ended == Complete {
		return step, step.Entry.State == Pending
	}
	step.Entry.Ended = Complete
	return step, true
}

// dataOn are the claims, those that are gone and whose volume is kept among them, whose data are on the machine of one node alone.
func dataOn(n *corev1.Node, v *view.View) []string {
	var claims []string
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		ref := pv.Spec.ClaimRef
		if ref != nil && ref.UID != "" && kinds.DataOnlyOn(pv, n.Name, view.List[*corev1.Node](v, "")) {
			claims = append(claims, ref.Namespace+"/"+ref.Name)
		}
	}
	return claims
}
