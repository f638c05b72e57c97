package kinds

import corev1 "k8s.io/api/core/v1"

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
