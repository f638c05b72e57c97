package web

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(namespace + name),
		CreationTimestamp: metav1.NewTime(now.Add(-3 * time.Hour)),
	}
}

func owned(m metav1.ObjectMeta, kind string, owner metav1.Object) metav1.ObjectMeta {
	yes := true
	m.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "apps/v1", Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes,
	}}
	return m
}

// shop is a cluster with a healthy and a failing source.
func shop(t *testing.T) *memory.Store {
	t.Helper()
	deployment := &appsv1.Deployment{ObjectMeta: named("shop", "cart")}
	set := &appsv1.ReplicaSet{ObjectMeta: owned(named("shop", "cart-6d4b"), "Deployment", deployment)}
	pod := &corev1.Pod{ObjectMeta: owned(named("shop", "cart-6d4b-x7k2p"), "ReplicaSet", set)}
	pod.Spec.NodeName = "node-a"
	pod.Spec.Containers = []corev1.Container{
		{Name: "web", Image: "registry.example/cart:7", Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "canary-7f3a"}}},
		{Name: "cache", Image: "registry.example/cache:2"},
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "web", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		{Name: "cache", RestartCount: 4, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 137}}},
	}
	pod.Spec.InitContainers = []corev1.Container{{Name: "migrated"}, {Name: "warm-up"}}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{
		{Name: "migrated", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}},
		{Name: "warm-up", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
	}
	pending := &corev1.Pod{ObjectMeta: named("shop", "big")}
	pending.Spec.Containers = []corev1.Container{{Name: "main", Image: "x"}}
	pending.Status.Phase = corev1.PodPending
	rejected := &corev1.Pod{ObjectMeta: named("shop", "tuned"), Status: corev1.PodStatus{Phase: corev1.PodFailed,
		Reason: "SysctlForbidden", Message: "Pod was rejected: forbidden sysctl"}}
	rejected.Spec.NodeName = "node-a"
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
		Reason: "FailedMount", Message: "no such directory"}}
	node := &corev1.Node{ObjectMeta: named("", "node-a")}
	node.Status.NodeInfo.KubeletVersion = "v1.37.2"
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.10"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	down := &corev1.Node{ObjectMeta: named("", "node-b")}
	down.Status.Conditions = []corev1.NodeCondition{{
		Type:              corev1.NodeReady,
		Status:            corev1.ConditionUnknown,
		Message:           "Kubelet stopped posting node status.",
		LastHeartbeatTime: metav1.NewTime(now.Add(-40 * time.Second)),
	}}
	far := pod.DeepCopy()
	far.ObjectMeta = named("shop", "far")
	far.Spec.NodeName = "node-b"
	far.Status.ContainerStatuses[1] = pod.Status.ContainerStatuses[0]
	good := &v1alpha1.Source{ObjectMeta: named("", "main")}
	good.Spec = v1alpha1.SourceSpec{URL: "https://bot:hunter2@git.example/shop.git", Branch: "main"}
	good.Status = v1alpha1.SourceStatus{
		Seen: "9f2c1e7a44d0", Accepted: "9f2c1e7a44d0", Applied: "9f2c1e7a44d0", State: "failure",
		Message: "Deployment shop/cart: CrashLoopBackOff, 0/1 ready", Objects: 2, Healthy: 1,
		Since: metav1.NewTime(now.Add(-5 * time.Minute)),
	}
	bad := &v1alpha1.Source{ObjectMeta: named("", "infra")}
	bad.Spec.Folder = "/srv/infra"
	bad.Status = v1alpha1.SourceStatus{
		Seen: "bbbb2222", Accepted: "aaaa1111", Objects: 1, State: "error", FetchError: "cannot read /srv/infra: not a directory",
		Message: `cart.yaml:14: strict decoding error: unknown field "spec.replcias"`,
		Errors:  []string{`cart.yaml:14:3: Deployment shop/cart: strict decoding error: unknown field "<script>alert(1)</script>"`},
	}
	away := &v1alpha1.Source{ObjectMeta: named("", "away")}
	away.Spec.URL = "https://git.example/away.git"
	away.Status.ForgeError = "2 commit statuses wait for the forge: the forge answered 503: down"
	away.Status.Warnings = []string{`till.yaml:9:5: Deployment shop/till: would violate PodSecurity "<b>:latest"`}
	away.Status.Drift = "node node-b has been silent for 41 s; Deployment shop/till: 1/2 ready"
	away.Status.FetchError = "cannot read https://git.example/away.git: connection refused \x1b[2J\u202e\u009b"
	held := &v1alpha1.Source{ObjectMeta: named("", "held")}
	held.Spec.Folder = "/srv/held"
	held.Status = v1alpha1.SourceStatus{
		Seen: "dddd4444", State: "error", Message: "held: would delete the data of 2 claims; allow it: shop/a (shop.y…",
		Errors: []string{"held: would delete the data of 2 claims; allow it: shop/a (shop.yaml:4), shop/b (shop.yaml:9)"},
	}
	event := &corev1.Event{ObjectMeta: named("shop", "e1"), Type: corev1.EventTypeWarning, Reason: "BackOff", Count: 12,
		Message: "Back-off restarting failed container cache\u202e\x1b]0;x\a", LastTimestamp: metav1.NewTime(now.Add(-30 * time.Second)),
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod.Name}}
	secret := &corev1.Secret{ObjectMeta: named("shop", "cart"), Data: map[string][]byte{"password": []byte("canary-7f3a")}}
	orphan := &corev1.PersistentVolumeClaim{ObjectMeta: named("shop", "data-db-0")}
	orphan.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}
	s := memory.New(orphan, good, bad, away, held, node, down, secret, deployment, set, pod, far, pending, rejected, event)
	record := func(table, name string, data any) {
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		r := s.Commit(t.Context(), store.Group{{Record: &view.Record{Table: table, Name: name, Data: raw}, Reason: "test"}})[0]
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	for line, o := range map[int]kinds.Object{14: deployment, 3: secret} {
		record(string(plan.Inventory), "main/"+kinds.KeyOf(o).Path(), map[string]any{
			"source": "main", "key": kinds.KeyOf(o), "file": "shop/cart.yaml", "line": line, "commit": "9f2c1e7a44d0",
			"author": "Ada Lovelace <ada@example.com>",
			"object": map[string]any{"data": "canary-7f3a"},
		})
	}
	record("posted", "main/0123456789abcdef/verdict", map[string]any{
		"status": map[string]any{"state": "success", "description": "2 objects in sync and healthy"},
	})
	return s
}

func newServer(t *testing.T) *Server {
	return New(Options{Store: shop(t), Cluster: "shop-cluster", Version: "v0.1.0", Now: func() time.Time { return now }})
}

func get(t *testing.T, s *Server, host, path string) (int, http.Header, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), "canary") || strings.Contains(string(body), "hunter2") {
		t.Errorf("%s shows a secret", path)
	}
	return w.Code, w.Header(), strings.ReplaceAll(string(body), "<wbr>", "") // where a long path may break
}

func TestPages(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		path string
		code int
		want []string
	}{
		{"/", 200, []string{
			"shop-cluster", "https://git.example/shop.git, branch main", "Deployment shop/cart: CrashLoopBackOff", "shop/cart.yaml:14",
			`href="/sources/main/9f2c1e7a44d0"`, "Ada Lovelace", "ReplicaSet cart-6d4b", "Deployment cart", "4 restarts",
			"node node-b has been silent for 40 s", "0 of 4 pods well", "lost since: node node-b has been silent for 41 s",
			"1 warning", "would violate PodSecurity &#34;&lt;b&gt;:latest&#34;",
			"2 commit statuses wait", "not bound to a node", "(init) running", "last ended: Error, exit code 137",
			"1 source: cannot be read now", "1 source: unreadable", "connection refused", `href="/sources/infra/aaaa1111"`,
			"2 sources: error", "1 source: failure", "shop/b (shop.yaml:9)", `class="failed">1 of 2 nodes ready`,
			`title="Ada Lovelace &lt;ada@example.com&gt;">Ada Lovelace<`, "Back-off restarting",
			"&lt;script&gt;alert(1)", "Secret shop/cart",
			"FailedMount: no such directory", "SysctlForbidden: Pod was rejected: forbidden sysctl", "Left over",
			"PersistentVolumeClaim shop/data-db-0", "no manifest states it, and no StatefulSet has it", "5Gi",
		}},
		{"/sources/main", 200, []string{"shop/cart.yaml:14"}},
		{"/sources/main/9f2c1e7a44d0", 200, []string{"9f2c1e7a44d0", "failure", "those of this revision"}},
		{"/sources/main/0123456789abcdef", 200, []string{"success", "2 objects in sync and healthy", "does not hold"}},
		{"/sources/main/ffff", 200, []string{"Nothing is known of this revision"}},
		{"/sources/infra/bbbb2222", 200, []string{"error", "cart.yaml:14:3"}},
		{"/sources/held", 200, []string{"held: would delete", "shop/b (shop.yaml:9)"}},
		{"/sources/held/dddd4444", 200, []string{"held: would delete", "shop/b (shop.yaml:9)"}},
		{"/sources/infra/aaaa1111", 200, []string{"in force", "0 of 1 object healthy"}},
		{"/sources/nobody", 404, []string{"There is no source nobody."}},
		{"/style.css", 200, []string{"prefers-color-scheme"}},
		{"/refresh.js", 200, []string{"setInterval"}},
		{"/nothing", 404, nil},
	} {
		code, header, body := get(t, s, "127.0.0.1:7070", c.path)
		if code != c.code {
			t.Errorf("%s: %d, want %d", c.path, code, c.code)
		}
		if header.Get("Content-Security-Policy") != policy {
			t.Errorf("%s has no policy", c.path)
		}
		for _, want := range c.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q", c.path, want)
			}
		}
		if strings.Contains(body, "migrated") {
			t.Errorf("%s shows an init container that is done", c.path)
		}
		if strings.ContainsAny(body, "\x1b\u202e\u009b") {
			t.Errorf("%s has characters that act", c.path)
		}
		if strings.Contains(body, "<script>alert") {
			t.Errorf("%s does not escape what a manifest says", c.path)
		}
	}
}

func TestForeignNames(t *testing.T) {
	s := newServer(t)
	s.opts.Hosts = []string{"status.example"}
	for host, want := range map[string]int{
		"127.0.0.1:7070": 200, "[::1]:7070": 200, "localhost": 200, "status.example:7070": 200, "rebound.example:7070": 421, "": 421,
	} {
		if code, _, _ := get(t, s, host, "/"); code != want {
			t.Errorf("host %q: %d, want %d", host, code, want)
		}
	}
}

func TestServe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := newServer(t)
	go func() { done <- s.Serve(ctx, listener) }()
	response, err := http.Get("http://" + listener.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("GET / = %d, %v", response.StatusCode, err)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// TestFuture: a time that has not come is not the newest, and is told.
func TestFuture(t *testing.T) {
	for then, want := range map[time.Time]string{
		now.Add(-3 * time.Hour): "3h", now.Add(time.Second): "0s", now.Add(time.Hour): "in the future", {}: "",
	} {
		if got := age(now, then); got != want {
			t.Errorf("age of %s is %q, want %q", then, got, want)
		}
	}
	s := memory.New()
	for name, at := range map[string]time.Time{"now": now.Add(-time.Minute), "future": now.Add(1000 * time.Hour)} {
		e := &corev1.Event{ObjectMeta: named("shop", name), Message: name, LastTimestamp: metav1.NewTime(at)}
		if r := s.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(e), Object: e, If: store.Anyway, Reason: "test"}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if rows := events(s.View(), now); rows[0].Message != "now" || rows[1].Age != "3h" {
		t.Errorf("the events are %v", rows)
	}
}
