package strategy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPrivilegedPodsAreValid(t *testing.T) {
	privileged := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{
			Name:            "main",
			Image:           "agent:1",
			SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
		}}}}
	Default(p)
	if errs := PrepareCreate(p); len(errs) > 0 {
		t.Errorf("PrepareCreate = %v", errs)
	}
}
