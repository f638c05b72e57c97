package reading

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"lockstep/kinds"
	"lockstep/lab"
)

// wire counts what is read anew, and cuts watches of pods in the middle of what comes through them.
type wire struct {
	next  http.RoundTripper
	fresh atomic.Int64
	last  atomic.Value // path of the last one that was read anew
	cut   atomic.Int64 // watches of pods that are still to be cut
	cuts  atomic.Int64 // those that were
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	if q.Get("watch") == "" || q.Get("sendInitialEvents") == "true" {
		w.fresh.Add(1)
		w.last.Store(r.URL.String())
	}
	response, err := w.next.RoundTrip(r)
	if err == nil && q.Get("watch") != "" && strings.HasSuffix(r.URL.Path, "/pods") {
		response.Body = &cutBody{ReadCloser: response.Body, wire: w}
	}
	return response, err
}

// cutAfter is how much of what comes passes before a cut: some pods of a dozen, each of some 4 kB. A watch that is cut
// before its first event makes client-go list again.
const cutAfter = 14_000

// cutBody breaks off inside an event of a revision that has others.
type cutBody struct {
	io.ReadCloser
	wire *wire
	left int // bytes until the cut; 0: no cut is due
}

// Read implements io.Reader.
func (b *cutBody) Read(p []byte) (int, error) {
	if b.left > 0 {
		p = p[:min(len(p), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case n == 0:
	case b.left > 0:
		if b.left -= n; b.left <= 0 {
			b.wire.cuts.Add(1)
			return n, io.ErrUnexpectedEOF
		}
	case b.wire.cut.Load() > 0 && b.wire.cut.Add(-1) >= 0:
		b.left = max(1, cutAfter-n)
	}
	return n, err
}

// TestInformers runs informers over every kind that a viewer may read.
func TestInformers(t *testing.T) {
	settled(t)
	w := &wire{}
	config := rest.CopyConfig(cluster.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		w.next = next
		return w
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	uncounted, err := dynamic.NewForConfig(cluster.config)
	if err != nil {
		t.Fatal(err)
	}
	untypedClient, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	typed := informers.NewSharedInformerFactory(client, 0)
	untyped := dynamicinformer.NewDynamicSharedInformerFactory(untypedClient, 0)
	stores := map[schema.GroupVersionResource]cache.SharedIndexInformer{}
	for _, k := range kinds.All {
		// The history of heartbeats is not kept: their informers list again, which is not counted here.
		if k.Resource == "secrets" || k.Resource == "leases" {
			continue
		}
		gvr := k.GroupVersionResource()
		if k.Group == "lockstep.dev" {
			stores[gvr] = untyped.ForResource(gvr).Informer()
		} else if generic, err := typed.ForResource(gvr); err != nil {
			t.Fatal(err)
		} else {
			stores[gvr] = generic.Informer()
		}
	}
	pods := &recorder{seen: map[string]string{}}
	podStore := stores[kinds.For[*corev1.Pod]().GroupVersionResource()]
	if _, err := podStore.AddEventHandler(pods); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	typed.Start(stop)
	untyped.Start(stop)
	defer typed.Shutdown()
	defer untyped.Shutdown()
	defer close(stop)
	until(t, "all kinds are synced", func() error {
		for gvr, i := range stores {
			if !i.HasSynced() {
				return fmt.Errorf("%s are not", gvr.Resource)
			}
		}
		return nil
	})
	same := func(when string) {
		t.Helper()
		until(t, "informers hold what is listed "+when, func() error { return differing(t, uncounted, stores) })
	}
	same("at first")
	before := w.fresh.Load()

	// client-go lists again where a watch ended within a second and without an event: that is its doing, not the server's.
	time.Sleep(1500 * time.Millisecond)
	// The server dies and comes back: watches go on where they were.
	server := cluster.lab.Server()
	if err := cluster.lab.Kill(t.Context(), server, lab.Daemon); err != nil {
		t.Fatal(err)
	}
	if err := cluster.lab.Start(t.Context(), server, lab.Daemon); err != nil {
		t.Fatal(err)
	}
	// A Deployment's pods are made in one revision, and their watch is cut in it, several times.
	for round, replicas := range []int{12, 2, 12, 2} {
		w.cut.Store(2)
		if err := cluster.push(t.Context(), objects(replicas)); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprintf("round %d: the pods are there", round), func() error {
			n := 0
			for _, o := range podStore.GetStore().List() {
				if p := o.(*corev1.Pod); p.Labels["app"] == "cart" && p.DeletionTimestamp == nil {
					n++
				}
			}
			if n != replicas {
				return fmt.Errorf("%d of %d", n, replicas)
			}
			return nil
		})
	}
	settled(t)
	same("at the end")
	if fresh := w.fresh.Load() - before; fresh != 0 {
		t.Errorf("%d kinds were read anew after the restart and the cuts, the last %v", fresh, w.last.Load())
	}
	if w.cuts.Load() == 0 {
		t.Error("no watch was cut")
	}
	pods.check(t)
}

// differing names a kind whose informer does not hold what is listed.
func differing(t *testing.T, client dynamic.Interface, stores map[schema.GroupVersionResource]cache.SharedIndexInformer) error {
	t.Helper()
	for gvr, i := range stores {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		list, err := client.Resource(gvr).List(ctx, metav1.ListOptions{})
		cancel()
		if err != nil {
			return err
		}
		held := map[string]string{}
		for _, o := range i.GetStore().List() {
			m := o.(metav1.Object)
			held[m.GetNamespace()+"/"+m.GetName()] = m.GetResourceVersion()
		}
		if len(held) != len(list.Items) {
			return fmt.Errorf("%s: %d held, %d listed", gvr.Resource, len(held), len(list.Items))
		}
		for _, o := range list.Items {
			if held[o.GetNamespace()+"/"+o.GetName()] != o.GetResourceVersion() {
				return fmt.Errorf("%s %s: %s held, %s listed", gvr.Resource, o.GetName(),
					held[o.GetNamespace()+"/"+o.GetName()], o.GetResourceVersion())
			}
		}
	}
	return nil
}

// recorder notes each pod's last revision, and complains about one that goes back.
type recorder struct {
	mu   sync.Mutex
	seen map[string]string
	gone int
	bad  []string
}

// OnAdd implements cache.ResourceEventHandler.
func (r *recorder) OnAdd(o any, _ bool) { r.note(o) }

// OnUpdate implements cache.ResourceEventHandler.
func (r *recorder) OnUpdate(_, o any) { r.note(o) }

// OnDelete implements cache.ResourceEventHandler.
func (r *recorder) OnDelete(o any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
		r.bad = append(r.bad, "the end of "+unknown.Key+" was missed")
	}
	r.gone++
}

func (r *recorder) note(o any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := o.(*corev1.Pod)
	before, now := r.seen[string(p.UID)], p.ResourceVersion
	if len(now) < len(before) || len(now) == len(before) && now < before {
		r.bad = append(r.bad, fmt.Sprintf("%s went from %s to %s", p.Name, before, now))
	}
	r.seen[string(p.UID)] = now
}

// check wants that the pods of four rounds came, and the ten of two rounds went, each told of.
func (r *recorder) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone < 20 || len(r.seen) < 26 || len(r.bad) != 0 {
		t.Errorf("%d pods came and %d went: %v", len(r.seen), r.gone, r.bad)
	}
}
