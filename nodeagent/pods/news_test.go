package pods

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestKilling has the kubelet's words for why a container ends.
func TestKilling(t *testing.T) {
	never, onFailure := corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure
	for _, c := range []struct {
		cause  Cause
		detail string
		pod    corev1.RestartPolicy
		own    *corev1.ContainerRestartPolicy
		want   string
	}{
		{Deleting, "", corev1.RestartPolicyAlways, nil, "Stopping container main"},
		{HookFailed, "", corev1.RestartPolicyAlways, nil, "FailedPostStartHook"},
		{Unhealthy, "failed liveness probe", corev1.RestartPolicyAlways, nil, "Container main failed liveness probe, will be restarted"},
		{Unhealthy, "failed liveness probe", corev1.RestartPolicyNever, nil, "Container main failed liveness probe"},
		{Unhealthy, "failed liveness probe", corev1.RestartPolicyNever, &onFailure,
			"Container main failed liveness probe, will be restarted"},
		{Unhealthy, "failed startup probe", corev1.RestartPolicyAlways, &never, "Container main failed startup probe"},
		{Changed, "", corev1.RestartPolicyNever, nil, "Container main definition changed, will be restarted"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.pod, Containers: []corev1.Container{{Name: "main", RestartPolicy: c.own}}}}
		got := Killing(Step{Container: "main", Cause: c.cause, Detail: c.detail}, pod)
		if got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.cause, c.pod, got, c.want)
		}
	}
}

// TestAdmit has the kubelet's words for what a node lacks; pods that it refused or that have ended need nothing.
func TestAdmit(t *testing.T) {
	asks := func(cpu, memory string) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}}}}}
	}
	node := corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Ki"), "pods": resource.MustParse("3")}
	ended := asks("2", "1000")
	ended.Status.Phase = corev1.PodSucceeded
	two := []Wanted{{Pod: asks("500m", "0")}, {Pod: asks("1", "24")}, {Pod: ended},
		{Pod: asks("2", "0"), Rejected: "OutOfcpu"}, {Pod: asks("2", "0"), Gone: true}}
	for _, c := range []struct {
		others          []Wanted
		pod             *corev1.Pod
		reason, message string
	}{
		{two, asks("500m", "1000"), "", ""},
		{two, asks("501m", "1"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		{two, asks("0", "1001"), "OutOfmemory", "Node didn't have enough resource: memory, requested: 1001, used: 24, capacity: 1024"},
		{append(two, Wanted{Pod: &corev1.Pod{}}), &corev1.Pod{}, "OutOfpods",
			"Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
	} {
		if reason, message := Admit(node, c.others, c.pod); reason != c.reason || message != c.message {
			t.Errorf("%s: %s, want %s: %s", reason, message, c.reason, c.message)
		}
	}
}

// TestNews has each kind of news end the failures that wait for it, and no others.
func TestNews(t *testing.T) {
	pulls := &corev1.Pod{Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "login"}}}}
	failures := map[Key]Failure{
		{Kind: Volumes}: {}, {Kind: Setup}: {}, {Prepare, "a"}: {Reason: "ErrImagePull"},
		{Start, "b"}: {Reason: "CreateContainerConfigError"}, {Start, "c"}: {Reason: "RunContainerError"},
	}
	for _, c := range []struct {
		news News
		want string
	}{
		{NetworkChanged, "[Sandbox]"},
		{ContentNews(pulls, Reference{Name: "login"}), "[Start/b Volumes]"},
		{ContentNews(pulls, Reference{Resource: Secrets, Name: "other"}), "[Start/b Volumes]"},
		{ContentNews(pulls, Reference{Resource: RuntimeClasses, Name: "login"}), "[Sandbox]"},
		{ContentNews(pulls, Reference{Resource: Secrets, Name: "login"}), "[Prepare/a Sandbox Start/b Start/c Volumes]"},
	} {
		var ended []string
		for k, f := range failures {
			if c.news.Ends(k, f) {
				ended = append(ended, k.String())
			}
		}
		if slices.Sort(ended); fmt.Sprint(ended) != c.want {
			t.Errorf("news %d ends %v, want %s", c.news, ended, c.want)
		}
	}
}
