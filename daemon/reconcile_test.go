package daemon_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers"
	"lockstep/reconcilers/engine"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// TestReconcilersRun runs the engine as the daemon does, on the machine's clock, and measures how long a deployment's hundred pods
// take it.
func TestReconcilersRun(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		runEngine(t, memory.NewWith(memory.Options{Default: strategy.Default}))
	})
	t.Run("etcd", func(t *testing.T) {
		s, err := store.Open(t.Context(), etcdtest.Client(t), store.Options{Default: strategy.Default})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		runEngine(t, s)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the store ended with %v", err)
		}
	})
}

func runEngine(t *testing.T, s store.Backend) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	e := engine.New(reconcilers.All(reconcilers.Options{}), engine.Options{Store: s, Commit: s, Events: s})
	go func() { ended <- e.Run(ctx) }()

	create := func(o kinds.Object) {
		strategy.Default(o)
		if errs := strategy.PrepareCreate(o); len(errs) > 0 {
			t.Fatal(errs)
		}
		if r := s.Commit(ctx, store.Group{{Key: kinds.KeyOf(o), Object: o, Reason: "test"}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	pods := func() int { return s.View().Len(kinds.For[*corev1.Pod]().GroupResource()) }
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s", what)
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	until("service account", func() bool { _, ok := view.Get[*corev1.ServiceAccount](s.View(), "shop", "default"); return ok })
	for n := range 3 {
		start := time.Now()
		name, hundred := fmt.Sprint("web-", n), int32(100)
		labels := map[string]string{"app": name}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		d.Spec.Replicas, d.Spec.Selector = &hundred, &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Template.Labels = labels
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: "one"}}
		create(d)
		until("100 pods", func() bool { return pods() == 100*(n+1) })
		t.Logf("100 pods in %v", time.Since(start))
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}
