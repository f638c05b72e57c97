package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"lockstep/daemon/api/watch"
	"lockstep/daemon/rights"
	"lockstep/kinds"
)

// TestPatchBombs sends small patches that unfold to much: each is refused soon, and takes little memory.
func TestPatchBombs(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.node("n1"))
	doubling := func(n int) string {
		ops := []string{`{"op":"add","path":"/metadata/annotations","value":{"a":"` + strings.Repeat("x", 1000) + `"}}`}
		for i := range n {
			ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/metadata","path":"/metadata/c%d"}`, i))
		}
		return "[" + strings.Join(ops, ",") + "]"
	}
	conditions := make([]string, 30000)
	for i := range conditions {
		conditions[i] = fmt.Sprintf(`{"type":"T%d","status":"True"}`, i)
	}
	for name, p := range map[string]struct {
		kind types.PatchType
		body string
	}{
		"40 copies, each of all before": {types.JSONPatchType, doubling(40)},
		"12 copies":                     {types.JSONPatchType, doubling(12)},
		"many operations": {types.JSONPatchType,
			"[" + strings.Repeat(`{"op":"test","path":"/kind","value":"Node"},`, 3000) + `{"op":"test","path":"/kind","value":"Node"}]`},
		"a long list to merge": {types.StrategicMergePatchType, `{"status":{"conditions":[` + strings.Join(conditions, ",") + `]}}`},
		"a large annotation":   {types.MergePatchType, `{"metadata":{"annotations":{"a":"` + strings.Repeat("x", 600<<10) + `"}}}`},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		_, err := c.CoreV1().Nodes().Patch(t.Context(), "n1", p.kind, []byte(p.body), metav1.PatchOptions{}, "status")
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: a patch of %d bytes is taken", name, len(p.body))
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
		if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 200 {
			t.Errorf("%s: allocated %d MiB", name, used)
		}
	}
	large := make([]corev1.NodeCondition, 8000)
	for i := range large {
		large[i] = corev1.NodeCondition{Type: corev1.NodeConditionType(fmt.Sprint("T", i)), Message: strings.Repeat("m", 100)}
	}
	n := testNode("n1")
	n.Status.Conditions = large
	if _, err := c.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a status of 900 KB: %v", err)
	}
}

// TestEvents: a message is cut as Kubernetes bounds it, times do not come from the future, and a node that tells too much
// is told to wait.
func TestEvents(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.node("n1")).CoreV1().Events("shop")
	event := func(change func(*corev1.Event)) *corev1.Event {
		e := &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}, Reason: "R", Type: "Normal",
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "cart-1-a"},
		}
		change(e)
		return e
	}
	ahead := metav1.NewTime(time.Now().Add(1000 * time.Hour))
	got, err := c.Create(t.Context(), event(func(e *corev1.Event) {
		e.Message, e.FirstTimestamp, e.LastTimestamp = strings.Repeat("é", 1500), ahead, ahead
	}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Message) > 1024 || !strings.HasSuffix(got.Message, "é...") || got.LastTimestamp.After(time.Now().Add(time.Minute)) {
		t.Errorf("message of %d bytes, at %s", len(got.Message), got.LastTimestamp)
	}
	owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "y"}}
	for name, change := range map[string]func(*corev1.Event){
		"980 KB":                       func(e *corev1.Event) { e.Message = strings.Repeat("x", 980_000) },
		"40 KB of annotations":         func(e *corev1.Event) { e.Annotations = map[string]string{"a": strings.Repeat("x", 40<<10)} },
		"a long reason":                func(e *corev1.Event) { e.Reason = strings.Repeat("x", 200) },
		"another node's pod":           func(e *corev1.Event) { e.InvolvedObject.Name = "cart-1-b" },
		"that by a uid it has not":     func(e *corev1.Event) { e.InvolvedObject.Name, e.InvolvedObject.UID = "cart-1-b", "other" },
		"in another node's name":       func(e *corev1.Event) { e.ReportingInstance = "n2" },
		"with an owner":                func(e *corev1.Event) { e.OwnerReferences = owner },
		"with a finalizer":             func(e *corev1.Event) { e.Finalizers = []string{"example.com/x"} },
		"of a source on another node":  func(e *corev1.Event) { e.Source.Host = "n2" },
		"of another node":              func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: "n2"} },
		"with a long involved subpath": func(e *corev1.Event) { e.InvolvedObject.FieldPath = strings.Repeat("x", 2000) },
	} {
		if _, err := c.Create(t.Context(), event(change), metav1.CreateOptions{}); err == nil {
			t.Errorf("an event %s is taken", name)
		}
	}
	s.server.budgets.events.Spend("node/n1", eventBurst, time.Now())
	code, body := s.ask(s.node("n1"), "POST", "/api/v1/namespaces/shop/events",
		`{"apiVersion":"v1","kind":"Event","metadata":{"name":"x"}}`)
	if code != http.StatusTooManyRequests {
		t.Errorf("a node that has told a thousand events: %d %s", code, body)
	}
	if code, _ := s.ask(s.node("n2"), "POST", "/api/v1/namespaces/shop/events",
		`{"apiVersion":"v1","kind":"Event","metadata":{"name":"x","namespace":"shop"},"involvedObject":{"kind":"Pod",`+
			`"namespace":"shop","name":"cart-1-b"}}`); code != http.StatusCreated {
		t.Errorf("another node then: %d", code)
	}
}

// TestOwnNode: a node registers itself without owners, finalizers or a heartbeat that is to come.
func TestOwnNode(t *testing.T) {
	s := newTestServer(t, nil)
	c := client(t, s.node("n5")).CoreV1().Nodes()
	for name, change := range map[string]func(*corev1.Node){
		"an owner": func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "y"}}
		},
		"a finalizer": func(n *corev1.Node) { n.Finalizers = []string{"example.com/x"} },
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n5"}}
		change(n)
		if _, err := c.Create(t.Context(), n, metav1.CreateOptions{}); err == nil {
			t.Errorf("a node with %s registers", name)
		}
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n5", UID: "chosen", CreationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
	}
	n.Status.Conditions = []corev1.NodeCondition{{
		Type:              corev1.NodeReady,
		Status:            corev1.ConditionTrue,
		LastHeartbeatTime: metav1.NewTime(time.Now().Add(time.Hour)),
	}}
	got, err := c.Create(t.Context(), n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Conditions[0].LastHeartbeatTime.After(time.Now().Add(time.Minute)) {
		t.Error("a heartbeat from the future is taken")
	}
	if got.UID == "chosen" || got.CreationTimestamp.After(time.Now().Add(time.Minute)) {
		t.Errorf("it chooses its uid and birth: %s, %s", got.UID, got.CreationTimestamp)
	}
	future := time.Now().Add(time.Hour).UTC().Format(metav1.RFC3339Micro)
	lease := `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"n5",` +
		`"namespace":"kube-node-lease"},"spec":{"renewTime":"` + future + `"}}`
	code, body := s.ask(s.node("n5"), "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n5", lease)
	if code != http.StatusOK || strings.Contains(body, future) {
		t.Errorf("a lease from the future: %d %s", code, body)
	}
}

// TestBudgets: who has used up a share waits, and nobody else does.
func TestBudgets(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.server.budgets.requests.Spend("node/n1", requestBurst+60*requestRate, time.Now())
	if code, body := s.ask(s.node("n1"), "GET", "/api/v1/nodes", ""); code != http.StatusTooManyRequests ||
		!strings.Contains(body, "more than its share") {
		t.Errorf("a node without requests left: %d %s", code, body)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if code, _ := s.ask(s.node("n1"), "GET", path, ""); code != http.StatusOK {
			t.Errorf("its probe %s: %d", path, code)
		}
	}
	if code, _ := s.ask(s.node("n2"), "GET", "/api/v1/nodes", ""); code != http.StatusOK {
		t.Errorf("another node: %d", code)
	}
	s.server.budgets.bytes.Spend("node/n2", byteBurst-1, time.Now().Add(time.Minute)) // no time passes until then
	if code, _ := s.ask(s.node("n2"), "GET", "/api/v1/services", ""); code != http.StatusOK {
		t.Errorf("a node with a byte left: %d", code)
	}
	if code, _ := s.ask(s.node("n2"), "GET", "/api/v1/services", ""); code != http.StatusTooManyRequests {
		t.Errorf("a node that has read all its bytes: %d", code)
	}
	for range cap(s.server.writes) / share {
		s.server.budgets.writes.Enter("peer/127.0.0.1")
	}
	if code, _ := s.ask(&rest.Config{Host: s.viewer().Host, TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.PEM()}}, "POST",
		rights.JoinPath, "{}"); code != http.StatusTooManyRequests {
		t.Errorf("one more join from an address with %d under way: %d", cap(s.server.writes)/share, code)
	}
	viewer := s.viewer()
	for range cap(s.server.reads) / share {
		s.server.budgets.reads.Enter("node/n3")
	}
	if code, _ := s.ask(s.node("n3"), "GET", "/api/v1/nodes", ""); code != http.StatusTooManyRequests {
		t.Errorf("a node with a quarter of all reads under way: %d", code)
	}
	if code, _ := s.ask(viewer, "GET", "/api/v1/nodes", ""); code != http.StatusOK {
		t.Errorf("a viewer then: %d", code)
	}
}

// TestStoredBytes: a node that has written its share waits, and nobody else does.
func TestStoredBytes(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.server.budgets.stored.Spend("node/n2", writeBurst, time.Now().Add(time.Minute))
	for name, want := range map[string]int{"n2": http.StatusTooManyRequests, "n1": http.StatusOK} {
		const status = `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`
		if code, body := s.ask(s.node(name), "PATCH", "/api/v1/nodes/"+name+"/status", status); code != want {
			t.Errorf("node %s writes: %d %s", name, code, body)
		}
	}
}

// TestLongRequestsAreBounded: as many as a credential may have, none with a body, none that outlives its right.
func TestLongRequestsAreBounded(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	id := identity{Subject: rights.Subject{Role: rights.Person}, credential: "token/x"}
	watch := httptest.NewRequest(http.MethodGet, "/api/v1/pods?watch=true&timeoutSeconds=99999999", nil)
	a := rights.Access{Verb: "watch", Resource: "pods"}
	var end time.Time
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { end, _ = r.Context().Deadline() })
	s.server.lasting(httptest.NewRecorder(), watch, id, a, next)
	if left := time.Until(end); end.IsZero() || left > maxWatch {
		t.Errorf("a watch may go on for %s", left)
	}
	id.until = time.Now().Add(time.Minute)
	s.server.lasting(httptest.NewRecorder(), watch, id, rights.Access{Verb: "get", Resource: "pods", Subresource: "log"}, next)
	if left := time.Until(end); left > time.Minute {
		t.Errorf("a followed log outlives its credential: %s", left)
	}
	for range viewerStays {
		s.server.budgets.viewers.Enter("token/x")
	}
	w := httptest.NewRecorder()
	if s.server.lasting(w, watch, id, a, next); w.Code != http.StatusTooManyRequests {
		t.Errorf("watch %d of a viewer: %d", viewerStays+1, w.Code)
	}
	for range peerStays {
		s.server.budgets.peers.Enter(peerOf(watch))
	}
	id.credential = "token/y"
	w = httptest.NewRecorder()
	if s.server.lasting(w, watch, id, a, next); w.Code != http.StatusTooManyRequests {
		t.Errorf("watch %d from an address: %d", peerStays+1, w.Code)
	}
	id = identity{Subject: rights.Subject{Role: rights.Node, Node: "n1"}, credential: "node/n1"}
	w = httptest.NewRecorder()
	if s.server.lasting(w, watch, id, rights.Access{Verb: "watch", Resource: "nodes"}, next); w.Code != http.StatusOK {
		t.Errorf("a node's watch from there: %d", w.Code)
	}
}

// TestBodyThatNeverComes asks for what lives long with a body that does not come, with and without a right to it.
func TestBodyThatNeverComes(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.stop()
	s.opts.Registerer, s.opts.RequestTimeout = nil, 300*time.Millisecond
	s.start(s.address)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.authority.PEM())
	pair := s.viewer().TLSClientConfig
	cert, err := tls.X509KeyPair(pair.CertData, pair.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	for name, certificates := range map[string][]tls.Certificate{"nobody": nil, "a viewer": {cert}} {
		for _, path := range []string{
			"/api/v1/pods?watch=true", "/api/v1/namespaces/shop/pods/cart-1-a/log?follow=true", rights.TunnelPath,
		} {
			c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: roots, Certificates: certificates})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: lockstep-tunnel\r\nConnection: Upgrade\r\n"+
				"Content-Length: 100\r\n\r\n", path); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if answer, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s of %s: the connection is kept after %q", path, name, answer)
			}
			_ = c.Close()
		}
	}
}

// TestWorkEndsWithItsClient: what nobody waits for is not done.
func TestWorkEndsWithItsClient(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	pods := &storage{kind: kinds.For[*corev1.Pod](), server: s.server.server}
	all, err := watch.NewFilter(pods.kind, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if p := pods.page(ctx, s.store.View(), all, "", 0); len(p.objects) > 0 {
		t.Errorf("%d objects are listed for nobody", len(p.objects))
	}
	if _, err := pods.ConvertToTable(ctx, &corev1.PodList{}, nil); !apierrors.IsTimeout(err) {
		t.Errorf("a table for nobody: %v", err)
	}
}
