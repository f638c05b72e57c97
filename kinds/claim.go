package kinds

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// ClaimOf is the name of the claim that a pod's volume is of; empty: it is of none.
func ClaimOf(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

// ReplicaClaim is the name of the claim that the replica of an ordinal has by one of its set's claim templates.
func ReplicaClaim(set *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// ReplicaOfClaim is the ordinal of the replica that has a claim of that name by one of the set's templates. A name that none of them
// gives is not ok.
func ReplicaOfClaim(set *appsv1.StatefulSet, claim string) (ordinal int, ok bool) {
	for i := range set.Spec.VolumeClaimTemplates {
		digits, fits := strings.CutPrefix(claim, set.Spec.VolumeClaimTemplates[i].Name+"-"+set.Name+"-")
		n, err := strconv.ParseInt(digits, 10, 32)
		if fits && err == nil && n >= 0 && strconv.FormatInt(n, 10) == digits {
			return int(n), true
		}
	}
	return 0, false
}

// DeletesClaims says whether a set's retention policy deletes its replicas' claims when the set is deleted, and when it gets smaller.
func DeletesClaims(set *appsv1.StatefulSet) (whenDeleted, whenScaled bool) {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	const gone = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return p != nil && p.WhenDeleted == gone, p != nil && p.WhenScaled == gone
}

// HasOrdinal says that a set is to have a replica of an ordinal.
func HasOrdinal(set *appsv1.StatefulSet, ordinal int) bool {
	first, end := Ordinals(set)
	return ordinal >= first && ordinal < end
}

// Ordinals are those of a set's replicas: from first, and below end.
func Ordinals(set *appsv1.StatefulSet) (first, end int) {
	if o := set.Spec.Ordinals; o != nil {
		first = int(o.Start)
	}
	size := 1
	if n := set.Spec.Replicas; n != nil {
		size = int(*n)
	}
	return first, first + size
}
