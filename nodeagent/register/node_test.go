package register

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"lockstep/kinds"
)

func TestReporterRegistersAndRenews(t *testing.T) {
	client := fake.NewClientset()
	changed := make(chan struct{}, 1)
	state := State{Addresses: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, NoNetwork: "no addresses"}
	r := &Reporter{Client: client, Name: "n1", Labels: map[string]string{"zone": "a"}, Changed: changed, Log: slog.New(slog.DiscardHandler),
		State: func(context.Context) State { return state }}
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	if _, err := r.report(t.Context(), now, false); err != nil {
		t.Fatal(err)
	}
	if err := r.renew(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n.Labels["zone"] != "a" || n.Labels[corev1.LabelHostname] != "n1" {
		t.Errorf("labels %v", n.Labels)
	}
	if c := kinds.NodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" ||
		!strings.Contains(c.Message, "no addresses") {
		t.Errorf("condition %+v", c)
	}
	if wrote, err := r.report(t.Context(), now.Add(time.Second), false); wrote || err != nil {
		t.Errorf("an unchanged status was written: %t, %v", wrote, err)
	}
	state.NoNetwork = ""
	if wrote, err := r.report(t.Context(), now.Add(time.Minute), false); !wrote || err != nil {
		t.Errorf("a changed status was not written: %v", err)
	}
	n, _ = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	later := now.Add(time.Minute)
	if c := kinds.NodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || !c.LastTransitionTime.Time.Equal(later) {
		t.Errorf("condition %+v", c)
	}
	if c := kinds.NodeCondition(n, corev1.NodeDiskPressure); !c.LastTransitionTime.Time.Equal(now) {
		t.Errorf("a condition that did not change has a new transition time: %+v", c)
	}
	lease, err := client.CoordinationV1().Leases(leaseSpace).Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || !lease.Spec.RenewTime.Time.Equal(now) {
		t.Errorf("lease %+v, %v", lease, err)
	}
}

// TestReportsStatedCapacity: what a manifest gives the node is reported beside what the agent knows itself, which counts where both say
// something, and no more once it is not stated.
func TestReportsStatedCapacity(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{
		kinds.StatedCapacity: "example.com/both=9,example.com/licence=4,odd,example.com/odd=x"}}})
	three, two := resource.MustParse("3"), resource.MustParse("2")
	var told corev1.ResourceList
	r := &Reporter{Client: client, Name: "n1", Log: slog.New(slog.DiscardHandler), State: func(context.Context) State {
		return State{Declared: corev1.ResourceList{"example.com/both": three}, Usable: corev1.ResourceList{"example.com/both": two}}
	}, Stated: func(stated corev1.ResourceList) { told = stated }}
	has := func(want ...string) {
		t.Helper()
		if _, err := r.report(t.Context(), time.Now(), false); err != nil {
			t.Fatal(err)
		}
		n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, list := range []corev1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
			for _, name := range []corev1.ResourceName{"example.com/both", "example.com/licence", "example.com/odd"} {
				if q, ok := list[name]; ok {
					got = append(got, string(name)+"="+q.String())
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	has("example.com/both=3", "example.com/licence=4", "example.com/both=2", "example.com/licence=4")
	if q := told["example.com/licence"]; len(told) != 2 || q.Value() != 4 {
		t.Errorf("%v is told", told)
	}
	n, _ := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	n.Annotations = nil
	if _, err := client.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	has("example.com/both=3", "example.com/both=2")
	if told == nil || len(told) > 0 {
		t.Errorf("of nothing, %v is told", told)
	}
}

// TestConditionsAreTheNodes holds the table of kinds to what nodes report: of a condition that it does not have a node's word is not
// taken once the node is registered.
func TestConditionsAreTheNodes(t *testing.T) {
	for _, c := range Status("n1", corev1.NodeStatus{}, State{Ingress: &Ingress{HTTP: 80, HTTPS: 443}}, time.Now()).Conditions {
		if !kinds.For[*corev1.Node]().OwnsCondition(string(c.Type)) {
			t.Errorf("condition %s is not the node's by the table of kinds", c.Type)
		}
	}
}

// TestReportAfterConflicts: the spec of a new node is written by several while the node reports its status.
func TestReportAfterConflicts(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	conflicts := 3
	client.PrependReactor("update", "nodes", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "status" || conflicts == 0 {
			return false, nil, nil
		}
		conflicts--
		return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), "n1", errors.New("the object has been modified"))
	})
	r := &Reporter{Client: client, Name: "n1", Log: slog.New(slog.DiscardHandler), State: func(context.Context) State { return State{} }}
	if wrote, err := r.report(t.Context(), time.Now(), false); !wrote || err != nil || conflicts != 0 {
		t.Errorf("written %t with %d conflicts to come: %v", wrote, conflicts, err)
	}
}

// TestBackWithOthersPods: a node that was silent is not ready before what is not its own any more has ended.
func TestBackWithOthersPods(t *testing.T) {
	silent := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}
	client := fake.NewClientset(silent)
	left := []string{"one pod is ending", "one pod is ending", ""}
	asked := 0
	r := &Reporter{Client: client, Name: "n1", Log: slog.New(slog.DiscardHandler), State: func(context.Context) State { return State{} },
		Foreign: func(context.Context) string { asked++; return left[asked-1] }}
	const no, yes = corev1.ConditionFalse, corev1.ConditionTrue
	for i, want := range []corev1.ConditionStatus{no, no, yes, yes} {
		if _, err := r.report(t.Context(), time.Now(), false); err != nil {
			t.Fatal(err)
		}
		n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := kinds.NodeCondition(n, corev1.NodeReady); c.Status != want {
			t.Errorf("report %d: Ready is %s (%s), want %s", i, c.Status, c.Message, want)
		}
	}
	if asked != 3 {
		t.Errorf("it was asked %d times, want 3", asked)
	}
}

func TestSecretGoesOnlyToThePinnedCA(t *testing.T) {
	asked := false
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	id := Identity{Server: s.URL, Node: "n1", Dir: t.TempDir()}
	err := id.Join(t.Context(), strings.Repeat("0", 64)+".id.secret")
	if err == nil || !strings.Contains(err.Error(), "does not have the CA") {
		t.Errorf("Join = %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the secret: %v", err)
	}
	if asked {
		t.Error("the server was asked")
	}
	if err := id.Join(t.Context(), "nonsense"); err == nil || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("Join = %v", err)
	}
}
