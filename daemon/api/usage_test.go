package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/internal/golden"
	"lockstep/kinds"
)

// usageOf is what an agent says of a pod.
func usageOf(pod *corev1.Pod, nanos, bytes int64) metricsv1beta1.PodMetrics {
	out := metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Timestamp:  metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Window: metav1.Duration{Duration: 15 * time.Second},
	}
	for i, c := range pod.Spec.Containers {
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewScaledQuantity(nanos*int64(i+1), resource.Nano),
			corev1.ResourceMemory: *resource.NewQuantity(bytes*int64(i+1), resource.BinarySI),
		}})
	}
	return out
}

// measuring are agents of which that of n1 has measured the node and some pods.
func measuring(pods ...metricsv1beta1.PodMetrics) fakeAgents {
	node := metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Window: metav1.Duration{Duration: 20 * time.Second},
		Usage:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1250m"), corev1.ResourceMemory: resource.MustParse("3Gi")},
	}
	list := metricsv1beta1.PodMetricsList{Items: pods}
	return fakeAgents{func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		var err error
		switch r.URL.Path {
		case "/usage/node":
			body, err = node.Marshal()
		case "/usage/pods":
			body, err = list.Marshal()
		default:
			http.NotFound(w, r)
			return
		}
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(body)
	}}
}

// busyCluster is the test cluster, with more pods on n1: one of two containers, one that was measured but once, one that has
// ended, and one that has come in the place of another of its name.
func busyCluster() (fakeAgents, []kinds.Object) {
	one, two, fresh := testPod("shop", "cart-1-a", "n1"), testPod("bank", "ledger", "n1"), testPod("shop", "fresh", "n1")
	two.Labels = map[string]string{"app": "ledger"}
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "side", Image: "x"})
	ended, before := testPod("shop", "ended", "n1"), testPod("shop", "again", "n1")
	ended.Status.Phase = corev1.PodSucceeded
	after := before.DeepCopy()
	after.UID = "another"
	agents := measuring(usageOf(one, 125_000_000, 64<<20), usageOf(two, 250_000_000, 10<<20),
		usageOf(ended, 1, 1<<20), usageOf(before, 1, 1<<20))
	bank := &corev1.Namespace{ObjectMeta: named("", "bank")}
	return agents, append(testCluster(), bank, two, fresh, ended, after)
}

func TestTop(t *testing.T) {
	agents, objects := busyCluster()
	s := newTestServer(t, agents, objects...)
	for name, args := range map[string]string{
		"pod":        "top pod -n shop",
		"containers": "top pod -A --containers",
		"sum":        "top pod -A --sum --sort-by=cpu",
		"selector":   "top pod -A -l app=ledger",
		"one":        "top pod ledger -n bank",
		"node":       "top node",
		"get":        "get pods.metrics.k8s.io -A",
		"get-node":   "get nodes.metrics.k8s.io n1",
		"get-old":    "get pods.v1beta1.metrics.k8s.io -n bank --show-labels",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			out, ok := s.kubectl(ctx, strings.Fields(args)...)
			if !ok {
				t.Errorf("kubectl %s failed", args)
			}
			golden.File(t, "testdata/kubectl-top-"+name+".txt", out)
		})
	}
}

// TestUsage reads metrics.k8s.io in both versions.
func TestUsage(t *testing.T) {
	agents, objects := busyCluster()
	s := newTestServer(t, agents, objects...)
	read := func(path string, code int, into any) {
		t.Helper()
		got, body := s.ask(s.viewer(), "GET", path, "")
		if got != code {
			t.Fatalf("GET %s: %d %s", path, got, body)
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
	}
	var pods metricsv1.PodMetricsList
	read("/apis/metrics.k8s.io/v1/pods", 200, &pods)
	names := ""
	for _, p := range pods.Items {
		names += " " + p.Namespace + "/" + p.Name
	}
	if names != " bank/ledger shop/cart-1-a" || pods.Kind != "PodMetricsList" || pods.APIVersion != "metrics.k8s.io/v1" {
		t.Errorf("%s %s:%s", pods.APIVersion, pods.Kind, names)
	}
	ledger := pods.Items[0]
	if len(ledger.Containers) != 2 || ledger.Labels["app"] != "ledger" || ledger.Window.Duration != 15*time.Second || ledger.UID != "" {
		t.Errorf("%+v", ledger)
	}
	for _, c := range []struct{ path, want string }{
		{"/apis/metrics.k8s.io/v1beta1/pods?labelSelector=app%3Dledger", "ledger"},
		{"/apis/metrics.k8s.io/v1beta1/pods?fieldSelector=metadata.namespace%3Dshop", "cart-1-a"},
		{"/apis/metrics.k8s.io/v1beta1/namespaces/bank/pods", "ledger"},
	} {
		var list metricsv1beta1.PodMetricsList
		read(c.path, 200, &list)
		if len(list.Items) != 1 || list.Items[0].Name != c.want {
			t.Errorf("%s: %+v", c.path, list.Items)
		}
	}
	var node metricsv1beta1.NodeMetrics
	read("/apis/metrics.k8s.io/v1beta1/nodes/n1", 200, &node)
	if node.Usage.Cpu().String() != "1250m" || node.Labels[corev1.LabelHostname] != "n1" || node.Kind != "NodeMetrics" {
		t.Errorf("%+v", node)
	}
	for path, want := range map[string]string{
		"/apis/metrics.k8s.io/v1/namespaces/shop/pods/fresh":  `pods.metrics.k8s.io "shop/fresh" not found`,
		"/apis/metrics.k8s.io/v1/namespaces/shop/pods/nobody": `pods.metrics.k8s.io "shop/nobody" not found`,
		"/apis/metrics.k8s.io/v1/nodes/n2":                    `nodes.metrics.k8s.io "n2" not found`,
	} {
		var status metav1.Status
		read(path, 404, &status)
		if status.Message != want {
			t.Errorf("%s: %s", path, status.Message)
		}
	}
	var status metav1.Status
	read("/apis/metrics.k8s.io/v1/pods?watch=true", 405, &status)
}

// TestUsageOfMany: what a thousand pods use is told soon.
func TestUsageOfMany(t *testing.T) {
	objects := []kinds.Object{testNode("n1")}
	var used []metricsv1beta1.PodMetrics
	for i := range 1000 {
		pod := testPod("shop", fmt.Sprintf("p-%d", i), "n1")
		objects, used = append(objects, pod), append(used, usageOf(pod, int64(i)*1_000_000, 8<<20))
	}
	s := newTestServer(t, measuring(used...), objects...)
	best := time.Hour
	for range 5 {
		began := time.Now()
		code, body := s.ask(s.viewer(), "GET", "/apis/metrics.k8s.io/v1beta1/pods", "")
		best = min(best, time.Since(began))
		var list metricsv1beta1.PodMetricsList
		if err := json.Unmarshal([]byte(body), &list); code != 200 || err != nil || len(list.Items) != 1000 {
			t.Fatalf("%d %v: %d pods", code, err, len(list.Items))
		}
	}
	t.Logf("1,000 pods in %v", best)
	if best > time.Second { // ./bench says how fast it is
		t.Errorf("1,000 pods took %v", best)
	}
}

// TestAgentsThatFail: a node that answers nothing of use is left out, and tells nobody.
func TestAgentsThatFail(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"text":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no protobuf") },
		"error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, fakeAgents{handler}, testCluster()...)
			code, body := s.ask(s.viewer(), "GET", "/apis/metrics.k8s.io/v1/pods", "")
			if code != 200 || !strings.Contains(body, `"items":[]`) {
				t.Errorf("%d %s", code, body)
			}
		})
	}
}
