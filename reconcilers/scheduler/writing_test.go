package scheduler

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
)

// committed is a Committer that says how many groups it is asked to write.
type committed chan int

func (c committed) Commit(_ context.Context, groups ...store.Group) []store.Result {
	c <- len(groups)
	out := make([]store.Result, len(groups))
	for i := range out {
		out[i].Revision = int64(len(groups))
	}
	return out
}

func TestWritesAreSentWhileOthersAreDecided(t *testing.T) {
	sent := make(committed)
	w := &writing{commit: sent}
	p := pod("p", "", nil)
	for range parcelSize {
		w.add(t.Context(), action{pod: p, group: store.Group{write(p, "")}})
	}
	if n := <-sent; n != parcelSize { // nobody waits for it yet
		t.Errorf("%d sent at first", n)
	}
	w.add(t.Context(), action{pod: p, group: store.Group{write(p, "")}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.wait(t.Context())
	}()
	if n := <-sent; n != 1 {
		t.Errorf("%d sent at last", n)
	}
	<-done
	if len(w.parcels) != 2 || len(w.parcels[0].results) != parcelSize || len(w.parcels[1].results) != 1 {
		t.Errorf("%d parcels, not all with results", len(w.parcels))
	}
	w.wait(t.Context()) // there is nothing left to be sent
}

// TestRunWritesManyParcels: of a round of several, some groups meet other writes, and are decided again; nobody is bound twice.
func TestRunWritesManyParcels(t *testing.T) {
	const pods = 2*parcelSize + 7
	var objs []kinds.Object
	for i := range pods/100 + 1 {
		objs = append(objs, node(fmt.Sprint("n", i), "cpu=100 memory=100Gi pods=110", nil))
	}
	for i := range pods {
		objs = append(objs, pod(fmt.Sprint("p", i), "cpu=100m", nil))
	}
	var mu sync.Mutex
	met, bound := map[string]bool{}, map[string]int{}
	s := memory.NewWith(memory.Options{Intercept: func(g store.Group) error {
		p, ok := g[0].Object.(*corev1.Pod)
		if !ok || p.Spec.NodeName == "" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if len(p.Name)%2 == 0 && !met[p.Name] {
			met[p.Name] = true
			return store.ErrConflict
		}
		bound[p.Name]++
		return nil
	}})
	for _, o := range objs {
		commit(t, s, store.Write{Key: kinds.KeyOf(o), Object: o})
	}
	run(t, New(Options{Store: s, Commit: s, Events: s}))
	for i := range pods {
		await(t, s, fmt.Sprint("p", i), func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	}
	mu.Lock()
	defer mu.Unlock()
	for name, times := range bound {
		if times != 1 {
			t.Errorf("%s is bound %d times", name, times)
		}
	}
	if len(met) == 0 {
		t.Error("nobody met another write")
	}
}
