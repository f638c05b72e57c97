package nodeagent

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"lockstep/nodeagent/pods"
)

// An event from before the connection is written once there is one.
func TestEventsWaitForTheAPI(t *testing.T) {
	api := fake.NewClientset()
	connected := make(chan struct{})
	broadcast := record.NewBroadcaster()
	defer broadcast.Shutdown()
	broadcast.StartRecordingToSink(&lateSink{ctx: t.Context(), connected: connected, api: func() kubernetes.Interface { return api }})
	recorder := broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet"})
	recorder.Event(&corev1.ObjectReference{Kind: "Node", Name: "n"}, corev1.EventTypeWarning, "RemovedForeignContainer", "Removed container x")
	close(connected)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := api.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 1 && strings.Contains(list.Items[0].Message, "container x") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are written", len(list.Items))
		}
	}
}

// TestKilling has the kubelet's words for why a container ends.
func TestKilling(t *testing.T) {
	never, onFailure := corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure
	for _, c := range []struct {
		reason string
		pod    corev1.RestartPolicy
		own    *corev1.ContainerRestartPolicy
		want   string
	}{
		{"the pod is being deleted", corev1.RestartPolicyAlways, nil, "Stopping container main"},
		{"FailedPostStartHook", corev1.RestartPolicyAlways, nil, "FailedPostStartHook"},
		{"Container main failed liveness probe", corev1.RestartPolicyAlways, nil, "Container main failed liveness probe, will be restarted"},
		{"Container main failed liveness probe", corev1.RestartPolicyNever, nil, "Container main failed liveness probe"},
		{"Container main failed liveness probe", corev1.RestartPolicyNever, &onFailure, "Container main failed liveness probe, will be restarted"},
		{"Container main failed startup probe", corev1.RestartPolicyAlways, &never, "Container main failed startup probe"},
		{"Container main definition changed", corev1.RestartPolicyNever, nil, "Container main definition changed, will be restarted"},
	} {
		o := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.pod}}
		got := killing(pods.Step{Container: "main", Reason: c.reason}, restartsAfterKill(o, &corev1.Container{RestartPolicy: c.own}))
		if got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.reason, c.pod, got, c.want)
		}
	}
}

func TestTooLittle(t *testing.T) {
	asks := func(cpu, memory string) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": apiresource.MustParse(cpu), "memory": apiresource.MustParse(memory)}}}}}}
	}
	node := corev1.ResourceList{"cpu": apiresource.MustParse("2"), "memory": apiresource.MustParse("1Ki"), "pods": apiresource.MustParse("3")}
	two := []*corev1.Pod{asks("500m", "0"), asks("1", "24")}
	for _, c := range []struct {
		others          []*corev1.Pod
		pod             *corev1.Pod
		reason, message string
	}{
		{two, asks("500m", "1000"), "", ""},
		{two, asks("501m", "1"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		{two, asks("0", "1001"), "OutOfmemory", "Node didn't have enough resource: memory, requested: 1001, used: 24, capacity: 1024"},
		{append(two, &corev1.Pod{}), &corev1.Pod{}, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
	} {
		if reason, message := tooLittle(node, c.others, c.pod); reason != c.reason || message != c.message {
			t.Errorf("%s: %s, want %s: %s", reason, message, c.reason, c.message)
		}
	}
}
