package watch

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
}

// running is a hub over a store with one object, until the test ends; and the window of its kind.
func running(t *testing.T) (*Hub, *window, Filter) {
	t.Helper()
	s := memory.New()
	r := s.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(configMap("one")), Object: configMap("one")}})[0]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	h := New(Options{Store: s})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if _, err := h.Wait(t.Context(), r.Revision); err != nil {
		t.Fatal(err)
	}
	kind := kinds.For[*corev1.ConfigMap]()
	f, err := NewFilter(kind, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, window := h.at(kind.GroupResource())
	return h, window, f
}

// lastOf reads a watch to its end, which must be that its client is told to list again.
func lastOf(t *testing.T, w watch.Interface) {
	t.Helper()
	last := watch.Event{}
	for e := range w.ResultChan() {
		last = e
	}
	if status, ok := last.Object.(*metav1.Status); !ok || last.Type != watch.Error || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("the watch ends with %v", last)
	}
}

func TestWatchTooOld(t *testing.T) {
	h, window, f := running(t)
	window.expire()
	w, err := h.Watch(t.Context(), f, From{Revision: 1, Least: 1})
	if err != nil {
		t.Fatal(err)
	}
	lastOf(t, w)
}

// TestSlowWatcher falls behind a window, on purpose a watcher whose events nobody reads.
func TestSlowWatcher(t *testing.T) {
	h, window, f := running(t)
	rev := h.View().Revision()
	w, err := h.Watch(t.Context(), f, From{Revision: rev, Least: rev})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	write := func(n int) {
		for range n {
			rev++
			o := configMap("m")
			window.append(rev, []traced{{Change: view.Change{Key: kinds.KeyOf(o), New: o, Revision: rev}}})
		}
	}
	write(watchBuffer + 2)
	for deadline := time.Now().Add(20 * time.Second); len(w.ResultChan()) < watchBuffer; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the watcher has sent %d events", len(w.ResultChan()))
		}
	}
	write(2*windowEvents + 100)
	lastOf(t, w)
}
