package usage

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/store/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgents answer for all nodes but "gone" with one pod each, called as the node is, and count what they are asked.
type fakeAgents struct {
	mu    sync.Mutex
	asked []string
	// meanwhile is called while one answers; nil: nothing happens then.
	meanwhile func()
}

func (f *fakeAgents) transport(node string) http.RoundTripper {
	if node == "gone" {
		return nil
	}
	return f
}

func (f *fakeAgents) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.URL.Host+r.URL.Path)
	if f.meanwhile != nil {
		f.meanwhile()
	}
	list := metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
		{ObjectMeta: metav1.ObjectMeta{UID: types.UID(r.URL.Host)}}, {ObjectMeta: metav1.ObjectMeta{UID: "of nobody's"}},
	}}
	body, err := list.Marshal()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(body)))}, nil
}

func (f *fakeAgents) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// TestGauge: the pods of all autoscalers' targets are measured at once, when one of them wants to know and not before, once for
// ten seconds; what is not theirs is not asked for.
func TestGauge(t *testing.T) {
	objects := []kinds.Object{}
	for _, name := range []string{"web", "api"} {
		selector := map[string]string{"app": name}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("d-" + name)}}
		d.Spec.Replicas, d.Spec.Selector = new(int32(2)), &metav1.LabelSelector{MatchLabels: selector}
		h := &autoscalingv2.HorizontalPodAutoscaler{}
		h.Namespace, h.Name, h.UID = "shop", name, types.UID("h-"+name)
		h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
		objects = append(objects, d, h)
		for _, node := range []string{"n-" + name, "gone"} {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: name + "-" + node, UID: types.UID(node), Labels: selector,
			}}
			if node == "gone" {
				p.UID = types.UID(name + "-gone")
			}
			p.Spec.NodeName, p.Status.Phase = node, corev1.PodRunning
			objects = append(objects, p)
		}
	}
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "bare", UID: "bare", Labels: map[string]string{"app": "x"}}}
	bare.Spec.NodeName, bare.Status.Phase = "n-bare", corev1.PodRunning
	v := view.Of(append(objects, bare)...)

	agents, now := &fakeAgents{}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := NewGauge(Agents{Transport: agents.transport, Log: slog.New(slog.DiscardHandler)}, func() *view.View { return v },
		func() time.Time { return now })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	read := func(hpa types.UID, at time.Time) (uids []types.UID) {
		t.Helper()
		eventually.True(t, time.Minute, "a measurement", func() bool {
			used, ok := g.Read(hpa, at)
			if !ok {
				return false
			}
			for _, uid := range []types.UID{"n-web", "n-api", "of nobody's", "bare", "web-gone"} {
				if used[uid] != nil {
					uids = append(uids, uid)
				}
			}
			return true
		})
		return uids
	}
	if agents.count() != 0 {
		t.Error("somebody was asked before anybody wanted to know")
	}
	g.first = now.Add(-settles) // a node that is gone is not waited for
	if got := read("h-web", now); len(got) != 2 || got[0] != "n-web" || got[1] != "n-api" {
		t.Errorf("measured %v", got)
	}
	read("h-api", now.Add(9*time.Second))
	if n := agents.count(); n != 2 {
		t.Errorf("%d questions for two nodes: %v", n, agents.asked)
	}
	if _, ok := g.Read("h-api", now.Add(15*time.Second)); ok {
		t.Error("what was measured fifteen seconds ago is told")
	}
	eventually.True(t, time.Minute, "another round", func() bool { return agents.count() == 4 })
	if _, ok := g.Read("h-new", now); ok {
		t.Error("an autoscaler that was not there is told what was measured for others")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestGaugeSettles: while agents come back to a server that was just started, nothing is told of some pods alone; a node that does
// not come is not waited for longer.
func TestGaugeSettles(t *testing.T) {
	v, now := oneAutoscaler(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name   string
		back   time.Duration
		waited time.Duration
	}{
		{"it comes back", 2 * time.Second, 2 * time.Second},
		{"it does not", time.Hour, settles},
	} {
		t.Run(test.name, func(t *testing.T) {
			at, agents := now, &fakeAgents{}
			g := NewGauge(Agents{Log: slog.New(slog.DiscardHandler), Transport: func(node string) http.RoundTripper {
				if at.Before(now.Add(test.back)) {
					return nil
				}
				return agents
			}}, func() *view.View { return v }, func() time.Time { return at })
			for ; ; at = at.Add(time.Second) {
				g.round(t.Context())
				if _, ok := g.Read("h", at); ok {
					break
				}
				if at.After(now.Add(time.Minute)) {
					t.Fatal("nothing is told for a minute")
				}
			}
			if waited := at.Sub(now); waited != test.waited {
				t.Errorf("told after %v, want %v", waited, test.waited)
			}
		})
	}
}

// TestGaugeMeanwhile: who asks again while the agents are asked has its answer with that round, and causes no other.
func TestGaugeMeanwhile(t *testing.T) {
	v, agents, now := oneAutoscaler(), &fakeAgents{}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := NewGauge(Agents{Transport: agents.transport, Log: slog.New(slog.DiscardHandler)}, func() *view.View { return v },
		func() time.Time { return now })
	agents.meanwhile = func() { g.Read("h", now) }
	g.round(t.Context())
	if _, ok := g.Read("h", now); !ok || agents.count() != 1 {
		t.Errorf("measured: %v, with %d questions for one node", ok, agents.count())
	}
	if n := len(g.asked); n != 0 {
		t.Errorf("%d more rounds are to come", n)
	}
}

// oneAutoscaler is an autoscaler, its Deployment and the one pod of that.
func oneAutoscaler() *view.View {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "h"}}
	h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "d"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "n", Labels: d.Spec.Selector.MatchLabels}}
	p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning
	return view.Of(h, d, p)
}
