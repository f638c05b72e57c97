package strategy

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestResize: an update of a pod may change cpu and memory, beside what it may change anyway, by the rules of the subresource.
func TestResize(t *testing.T) {
	q := resource.MustParse
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "u", ResourceVersion: "1"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": q("1"), "memory": q("1Gi")}, Limits: corev1.ResourceList{"memory": q("2Gi")}}}}}}
	Default(old)
	if errs := PrepareCreate(old); len(errs) > 0 {
		t.Fatal(errs)
	}
	old.Spec.NodeName = "n"
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   string // part of the error; empty: allowed
	}{
		"more": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = q("2") }, ""},
		"more, and another image": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["cpu"], p.Spec.Containers[0].Image = q("2"), "j"
		}, ""},
		"a limit": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits["cpu"] = q("2") }, ""},
		"no limit": {func(p *corev1.Pod) { delete(p.Spec.Containers[0].Resources.Limits, "memory") },
			"resource limits cannot be removed"},
		"disk": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["ephemeral-storage"] = q("2") },
			"only cpu and memory resources are mutable"},
		"another class": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": q("1"), "memory": q("1Gi")}
		}, "Pod QOS Class may not change"},
		"more, and another command": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["cpu"], p.Spec.Containers[0].Command = q("2"), []string{"x"}
		}, "pod updates may not change fields"},
	} {
		pod := old.DeepCopy()
		c.change(pod)
		want := pod.DeepCopy()
		errs := PrepareUpdate(pod, old)
		if c.want == "" && len(errs) > 0 || c.want != "" && !strings.Contains(errs.ToAggregate().Error(), c.want) {
			t.Errorf("%s: %v", name, errs)
		}
		if c.want == "" && (pod.Generation <= old.Generation || pod.Spec.Containers[0].Image != want.Spec.Containers[0].Image ||
			!pod.Spec.Containers[0].Resources.Requests.Cpu().Equal(*want.Spec.Containers[0].Resources.Requests.Cpu())) {
			t.Errorf("%s: %+v", name, pod.Spec.Containers[0])
		}
	}
}
