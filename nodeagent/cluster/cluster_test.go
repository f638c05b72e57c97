package cluster

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/nodeagent/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func stateOf(names ...string) (s replica.State) {
	for _, name := range names {
		s.Services = append(s.Services, service("shop", name))
	}
	return s
}

func newCluster(t *testing.T, file string) *Cluster {
	return New(Options{Node: "n1", File: file, Log: slog.New(slog.DiscardHandler), Kept: func(_ time.Duration, err error) {
		if err != nil {
			t.Error(err)
		}
	}})
}

func woken(wake <-chan struct{}) bool {
	select {
	case <-wake:
		return true
	default:
		return false
	}
}

// TestSnapshots has one that does not change until the cluster does, and a wake-up when it does.
func TestSnapshots(t *testing.T) {
	c := newCluster(t, filepath.Join(t.TempDir(), "cluster"))
	wake := c.Subscribe()
	if !woken(wake) || woken(wake) {
		t.Error("a subscriber does not begin with one wake-up")
	}
	if c.Snapshot() != nil || woken(c.Known()) {
		t.Error("something is known of nothing")
	}
	if !c.Publish(&Snapshot{State: stateOf("kept")}) || !woken(wake) {
		t.Error("a kept state is not published")
	}
	if s := c.Snapshot(); s.Complete || len(s.Services) != 1 || !woken(c.Known()) {
		t.Errorf("the kept state: %+v", s)
	}
	live := stateOf("a", "b")
	c.follows(func() replica.State { return live })
	first := c.Snapshot()
	if !first.Complete || len(first.Services) != 2 || !woken(wake) || !woken(c.complete) {
		t.Errorf("the API's state: %+v", first)
	}
	if c.Publish(&Snapshot{}) || c.Snapshot() != first || woken(wake) {
		t.Error("a kept state comes after the API's")
	}
	live = stateOf("a", "b", "c")
	if c.Snapshot() != first {
		t.Error("another snapshot without a change")
	}
	c.changed(false)
	c.changed(false)
	if s := c.Snapshot(); !woken(wake) || woken(wake) || len(s.Services) != 3 || len(first.Services) != 2 || c.Snapshot() != s {
		t.Errorf("after a change: %+v", s)
	}
	// Another history: what was followed stands until the new one is complete.
	c.follows(func() replica.State { return stateOf() })
	if s := c.Snapshot(); !s.Complete || len(s.Services) != 0 || !woken(wake) {
		t.Errorf("of another history: %+v", s)
	}
}

// TestKeptCopy has a node keep what it knows, and the next one begin with that, unless the API answers first.
func TestKeptCopy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster")
	c := newCluster(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() {
		if err := c.Keep(ctx); err != nil {
			t.Error(err)
		}
	})
	c.follows(func() replica.State { return stateOf("a") })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if s, err := replica.Load(file); err != nil || s != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is kept")
		}
	}
	cancel()
	keeping.Wait()
	next := newCluster(t, file)
	if err := next.Recall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := next.Snapshot(); s == nil || s.Complete || len(s.Services) != 1 || s.Services[0].Name != "a" {
		t.Errorf("recalled: %+v", s)
	}
	answered := newCluster(t, file)
	answered.follows(func() replica.State { return stateOf("b", "c") })
	if err := answered.Recall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := answered.Snapshot(); !s.Complete || len(s.Services) != 2 {
		t.Errorf("recalled after the API has answered: %+v", s)
	}
}

func TestServicesOf(t *testing.T) {
	s := &Snapshot{State: replica.State{Services: []*corev1.Service{
		service("default", "kubernetes"), service("default", "web"), service("shop", "web")}}}
	for namespace, want := range map[string]int{"default": 2, "shop": 2, "other": 1} {
		if got := s.ServicesOf(namespace); len(got) != want {
			t.Errorf("%s: %d services, want %d", namespace, len(got), want)
		}
	}
}

// TestMoves counts what routes are made of, and nothing else: agents with thousands of nodes make theirs anew only then.
func TestMoves(t *testing.T) {
	c := newCluster(t, "")
	c.follows(func() replica.State { return replica.State{} })
	node := func(name, third string, status corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.42." + third + ".0/24"}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}},
		}
	}
	nodes, services := c.nodeHandler(), c.handler(false)
	last := uint64(0)
	for _, step := range []struct {
		what        string
		do          func()
		anew, moves bool
	}{
		{"the first snapshot", func() {}, true, true},
		{"nothing", func() {}, false, false},
		{"a node", func() { nodes.OnAdd(node("n2", "1", "True"), false) }, true, true},
		{"a service", func() { services.OnAdd(service("shop", "cart"), false) }, true, false},
		{"a condition", func() { nodes.OnUpdate(node("n2", "1", "True"), node("n2", "1", "False")) }, false, false},
		{"its own condition", func() { nodes.OnUpdate(node("n1", "0", "True"), node("n1", "0", "False")) }, true, false},
		{"a range", func() { nodes.OnUpdate(node("n2", "1", "True"), node("n2", "9", "True")) }, true, true},
		{"a node less", func() { nodes.OnDelete(node("n2", "9", "True")) }, true, true},
		{"another history", func() { c.follows(func() replica.State { return replica.State{} }) }, true, true},
	} {
		before := c.Snapshot()
		if last == 0 {
			before = nil
		}
		step.do()
		if s := c.Snapshot(); s != before != step.anew || s.Moves > last != step.moves || s.Moves < last {
			t.Errorf("%s: another snapshot %t, moves from %d to %d", step.what, s != before, last, s.Moves)
		} else {
			last = s.Moves
		}
	}
}
