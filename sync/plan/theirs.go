package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// theirs tells, of a live object, which of the fields that a file may state are a controller's by now: the size of a
// ReplicaSet that a Deployment has adopted, and of what an autoscaler sizes. Stating them would be a quarrel.
func theirs(live kinds.Object, then *after) func(path ...string) bool {
	v, row := then.view, kinds.Of(live)
	sized := len(then.scalers()[kinds.KeyOf(live)]) > 0
	var by kinds.Controller
	var copied map[string]string
	ref := metav1.GetControllerOfNoCopy(live)
	for _, c := range row.Controllers {
		switch {
		case c.Of == row.GroupVersionKind:
			by = c
		case ref != nil && ref.Kind == c.Of.Kind:
			by = c
			if owner := v.ByUID(ref.UID); c.Copies && owner != nil && kinds.Of(owner).GroupVersionKind == c.Of {
				copied = owner.GetAnnotations()
			}
		}
	}
	if by.Annotations == "" && len(by.Fields) == 0 && !sized {
		return nil
	}
	return func(path ...string) bool {
		if len(path) == 3 && path[1] == "annotations" {
			_, copied := copied[path[2]]
			return copied || by.Annotations != "" && strings.HasPrefix(path[2], by.Annotations)
		}
		return len(path) == 2 && path[0] == "spec" && (slices.Contains(by.Fields, path[1]) || sized && path[1] == "replicas")
	}
}

// aggregates says that a ClusterRole is stated whose rules are those of others.
func aggregates(k kinds.Key, stated json.RawMessage) bool {
	var role struct{ AggregationRule *rbacv1.AggregationRule }
	return k.GroupResource() == kinds.For[*rbacv1.ClusterRole]().GroupResource() && json.Unmarshal(stated, &role) == nil &&
		role.AggregationRule != nil
}

// without returns what is stated without the fields for which not is true: fields of the object and of its specification,
// and annotations.
func without(stated json.RawMessage, not func(path ...string) bool) json.RawMessage {
	if not == nil || len(stated) == 0 {
		return stated
	}
	var o map[string]any
	if json.Unmarshal(stated, &o) != nil {
		return stated
	}
	changed := false
	drop := func(m any, path ...string) {
		fields, _ := m.(map[string]any)
		for name := range fields {
			if not(append(path, name)...) {
				delete(fields, name)
				changed = true
			}
		}
	}
	drop(o)
	drop(o["spec"], "spec")
	if metadata, ok := o["metadata"].(map[string]any); ok {
		drop(metadata["annotations"], "metadata", "annotations")
	}
	if !changed {
		return stated
	}
	out, err := json.Marshal(o)
	if err != nil {
		return stated
	}
	return out
}

// removedBy says which controller removes an object whenever it is there, so that making it again would go on for ever: a
// Deployment its ReplicaSets past the history limit, a ReplicaSet pods that it has too many of. Empty: none.
func removedBy(o kinds.Object, v *view.View) string {
	for _, c := range kinds.Of(o).Controllers {
		if c.Removes == kinds.RemovesNone {
			continue
		}
		row := kinds.ForGVK(c.Of)
		for owner := range v.List(row.GroupResource(), o.GetNamespace()) {
			if owner.GetDeletionTimestamp() == nil && kinds.Selects(c.Selects(owner), o) &&
				(c.Named == nil || c.Named(owner, o)) &&
				(c.Removes == kinds.RemovesAny || full(owner, row.Scale(owner), v)) {
				return kinds.KeyOf(owner).String()
			}
		}
	}
	return ""
}

// goneFor says why a pod is gone that nobody deleted, by the last that its events tell of where it was: it made room for another, or
// its node is gone. Empty: neither is known.
func goneFor(pod kinds.Key, v *view.View) string {
	if kinds.ForResource(pod.GroupResource()) != kinds.For[*corev1.Pod]() {
		return ""
	}
	var last *corev1.Event
	for e := range view.List[*corev1.Event](v, pod.Namespace) {
		about := e.InvolvedObject.Kind == "Pod" && e.InvolvedObject.Name == pod.Name &&
			slices.Contains([]string{"Scheduled", "Preempted", kinds.TaintEviction, kinds.Drained}, e.Reason)
		if about && (last == nil || e.LastTimestamp.After(last.LastTimestamp.Time)) {
			last = e
		}
	}
	switch {
	case last == nil:
		return ""
	case last.Reason == "Preempted":
		return "preempted by a pod of higher priority"
	case last.Reason == kinds.TaintEviction && strings.HasPrefix(last.Message, "Marking"):
		return "its node has a taint that it does not tolerate"
	case last.Reason == kinds.Drained:
		return "its node is drained"
	}
	node, ok := strings.CutPrefix(last.Message, fmt.Sprintf("Successfully assigned %s/%s to ", pod.Namespace, pod.Name))
	if _, there := view.Get[*corev1.Node](v, "", node); ok && !there {
		return "its node " + node + " is gone"
	}
	return ""
}

// drivenOut says that a pod which names its node would be evicted from it as soon as it is there; empty: it may run.
func drivenOut(o kinds.Object, v *view.View) string {
	p, ok := o.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" {
		return ""
	}
	n, there := view.Get[*corev1.Node](v, "", p.Spec.NodeName)
	if !there {
		return ""
	}
	if kinds.Asked(n, kinds.DrainNode) {
		return "its node " + n.Name + " is drained"
	}
	if t := kinds.DrivesOut(n, p); t != nil {
		return fmt.Sprintf("its node %s has the taint %s, which it does not tolerate", n.Name, t.ToString())
	}
	return ""
}

// full says that an object has all the pods it wants.
func full(owner kinds.Object, scale *kinds.Scale, v *view.View) bool {
	n := int32(0)
	for o := range v.Controlled(owner.GetUID()) {
		if p, ok := o.(*corev1.Pod); ok && p.DeletionTimestamp == nil && !podstatus.Finished(&p.Status) {
			n++
		}
	}
	return scale.Wanted != nil && n >= *scale.Wanted
}

func waitsFor(controller string) string {
	return fmt.Sprintf("%s selects it, has adopted and removed it; change its labels, or state one of the two", controller)
}
