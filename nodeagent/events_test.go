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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"lockstep/nodeagent/client"
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
	sink := &lateSink{
		ctx:       t.Context(),
		connected: connected,
		api:       func() client.Interface { return api },
		log:       slog.New(slog.NewTextHandler(&lines, nil)),
	}
	recorded := broadcast.StartRecordingToSink(sink)
	recorder := broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet"})
	for i := range 20 {
		recorder.Event(&corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprint(i)},
			corev1.EventTypeNormal, "Pulled", "Pulled it")
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
	broadcast.StartRecordingToSink(&lateSink{
		ctx:       t.Context(),
		connected: connected,
		api:       func() client.Interface { return api },
		log:       slog.New(slog.DiscardHandler),
	})
	recorder := broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet"})
	recorder.Event(&corev1.ObjectReference{Kind: "Node", Name: "n"}, corev1.EventTypeWarning,
		"RemovedForeignContainer", "Removed container x")
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
