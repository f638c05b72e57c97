package admission

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/podsecurity"
)

// secure refuses a pod that violates the Pod Security Standards of its namespace, as Kubernetes' plugin PodSecurity does.
func secure(pod *corev1.Pod, in Cluster) *field.Error {
	if reason := podsecurity.Refused(LabelsOf(pod.Namespace, in), &pod.ObjectMeta, &pod.Spec); reason != "" {
		return field.Forbidden(field.NewPath("spec"), reason)
	}
	return nil
}

// LabelsOf returns a namespace's labels, which are shared; nil where there is no such namespace.
func LabelsOf(namespace string, in Cluster) map[string]string {
	if ns := in.Get(kinds.For[*corev1.Namespace]().Key("", namespace)); ns != nil {
		return ns.GetLabels()
	}
	return nil
}
