package nodeagent

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
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
