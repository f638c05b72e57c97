package plan

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// deploymentAnnotations begin the names of the deployment controller's own annotations (Kubernetes,
// pkg/controller/deployment/util): a manifest gives them their first value and no more.
const deploymentAnnotations = "deployment.kubernetes.io/"

// theirs tells, of a live object, which of the fields that a file may state are a controller's by now: the size of a
// ReplicaSet that a Deployment has adopted, as an autoscaler's replicas are. Stating them would be a quarrel.
func theirs(live kinds.Object, v *view.View) func(path ...string) bool {
	var owner *appsv1.Deployment
	switch live.(type) {
	case *appsv1.Deployment:
	case *appsv1.ReplicaSet:
		ref := metav1.GetControllerOfNoCopy(live)
		if ref == nil || ref.Kind != "Deployment" {
			return nil
		}
		owner, _ = v.ByUID(ref.UID).(*appsv1.Deployment)
		if owner == nil {
			owner = &appsv1.Deployment{}
		}
	default:
		return nil
	}
	return func(path ...string) bool {
		switch {
		case len(path) == 3 && path[1] == "annotations":
			if owner != nil {
				if _, copied := owner.Annotations[path[2]]; copied {
					return true
				}
			}
			return strings.HasPrefix(path[2], deploymentAnnotations)
		case owner == nil:
			return false
		}
		return len(path) == 2 && path[0] == "spec" && (path[1] == "replicas" || path[1] == "minReadySeconds")
	}
}

// without returns what is stated without the fields for which not is true: fields of the specification, and annotations.
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
	switch o.(type) {
	case *appsv1.ReplicaSet:
		for d := range view.List[*appsv1.Deployment](v, o.GetNamespace()) {
			if d.DeletionTimestamp == nil && kinds.Selects(d.Spec.Selector, o) {
				return kinds.KeyOf(d).String()
			}
		}
	case *corev1.Pod:
		for rs := range view.List[*appsv1.ReplicaSet](v, o.GetNamespace()) {
			if rs.DeletionTimestamp == nil && kinds.Selects(rs.Spec.Selector, o) && full(rs, v) {
				return kinds.KeyOf(rs).String()
			}
		}
	}
	return ""
}

// full says that a ReplicaSet has all the pods it wants.
func full(rs *appsv1.ReplicaSet, v *view.View) bool {
	n := int32(0)
	for o := range v.Controlled(rs.UID) {
		if p, ok := o.(*corev1.Pod); ok && p.DeletionTimestamp == nil && !podstatus.Finished(&p.Status) {
			n++
		}
	}
	return rs.Spec.Replicas != nil && n >= *rs.Spec.Replicas
}

func waitsFor(controller string) string {
	return fmt.Sprintf("%s selects it, has adopted and removed it; change its labels, or state one of the two", controller)
}
