package nodeagent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"lockstep/nodeagent/pods"
)

// TestEventsWaitForTheServer has a server that goes away while many events come: each is written when it is back, and two
// lines tell of it.
func TestEventsWaitForTheServer(t *testing.T) {
	api, connected, tries := fake.NewClientset(), make(chan struct{}), atomic.Int64{}
	close(connected)
	refusals := []error{errors.New("connection refused"), apierrors.NewServiceUnavailable("starting")}
	api.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
		if n := tries.Add(1); n <= int64(len(refusals)) {
			return true, nil, refusals[n-1]
		}
		return false, nil, nil
	})
	var lines bytes.Buffer
	broadcast := record.NewBroadcaster()
	sink := &lateSink{ctx: t.Context(), connected: connected, api: func() kubernetes.Interface { return api }, log: slog.New(slog.NewTextHandler(&lines, nil))}
	recorded := broadcast.StartRecordingToSink(sink)
	recorder := broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet"})
	for i := range 20 {
		recorder.Event(&corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprint(i)}, corev1.EventTypeNormal, "Pulled", "Pulled it")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := api.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are written", len(list.Items))
		}
	}
	recorded.Stop()
	broadcast.Shutdown()
	text := lines.String()
	if strings.Count(text, "\n") != 2 || !strings.Contains(text, "connection refused") || !strings.Contains(text, "takes events again") {
		t.Errorf("told:\n%s", text)
	}
}

// An event from before the connection is written once there is one.
func TestEventsWaitForTheAPI(t *testing.T) {
	api := fake.NewClientset()
	connected := make(chan struct{})
	broadcast := record.NewBroadcaster()
	defer broadcast.Shutdown()
	broadcast.StartRecordingToSink(&lateSink{ctx: t.Context(), connected: connected, api: func() kubernetes.Interface { return api }, log: slog.New(slog.DiscardHandler)})
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
