package kinds

import (
	"reflect"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// conditions are the types of a column Conditions.
func conditions[T ~string](types ...T) []string {
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = string(t)
	}
	return out
}

func namespaceConditions() []string {
	return conditions(corev1.NamespaceDeletionDiscoveryFailure, corev1.NamespaceDeletionContentFailure,
		corev1.NamespaceDeletionGVParsingFailure, corev1.NamespaceContentRemaining, corev1.NamespaceFinalizersRemaining)
}

func nodeConditions() []string {
	return conditions(corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
		corev1.NodeNetworkUnavailable, NodeServiceRules, NodeIngress, NodeDrained, NodeClock)
}

func claimConditions() []string {
	return conditions(corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
		corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError,
		corev1.PersistentVolumeClaimVolumeModifyVolumeError, corev1.PersistentVolumeClaimVolumeModifyingVolume)
}

func jobConditions() []string {
	return conditions(batchv1.JobComplete, batchv1.JobFailed, batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet)
}

// OwnsCondition says that nodes or the cluster set conditions of that type in the status of the kind's objects.
func (k *Kind) OwnsCondition(t string) bool {
	return strings.HasPrefix(t, "lockstep.dev/") || slices.Contains(k.Conditions, t)
}

// ConditionsOf is the list of conditions in an object's status: a slice of structs with Type, Status, Reason and Message, which are
// strings. It is the object's own, and may be set where the object may be changed. It panics for a kind that has none.
func (k *Kind) ConditionsOf(o Object) reflect.Value {
	return k.FieldsOfStatus(o).FieldByName("Conditions")
}

// StatusOf is the status of an object of a kind that has one.
func (k *Kind) StatusOf(o Object) any { return k.FieldsOfStatus(o).Interface() }

// FieldsOfStatus is the status as a struct, the object's own.
func (k *Kind) FieldsOfStatus(o Object) reflect.Value {
	return reflect.ValueOf(o).Elem().FieldByIndex(k.status)
}
