package store

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/kinds"
)

// generations are the resources whose generation Kubernetes counts, from 1 at creation.
var generations = map[string]bool{
	"pods": true, "replicasets": true, "deployments": true, "statefulsets": true, "daemonsets": true, "jobs": true,
	"cronjobs": true, "endpointslices": true, "ingresses": true, "horizontalpodautoscalers": true,
	"poddisruptionbudgets": true, "networkpolicies": true, "sources": true,
}

// Stamped returns a copy of the object, sharing all but the outermost struct, as it is to be stored: with its
// kind, without resourceVersion, and where create is set with uid, creationTimestamp and generation where they are empty.
func Stamped(o kinds.Object, create bool, now time.Time) kinds.Object {
	o = shallow(o)
	o.SetResourceVersion("")
	o.GetObjectKind().SetGroupVersionKind(kinds.Of(o).GroupVersionKind)
	if !create {
		return o
	}
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if created := o.GetCreationTimestamp(); created.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(now.Truncate(time.Second)))
	}
	if o.GetGeneration() == 0 && generations[kinds.Of(o).Resource] {
		o.SetGeneration(1)
	}
	return o
}
