package api

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/store"
)

// requestLog counts requests that read everything anew of anything but heartbeats, whose history is not kept.
type requestLog struct {
	http.RoundTripper
	fresh atomic.Int64
	last  atomic.Value // URL of the last one
}

// RoundTrip implements http.RoundTripper.
func (l *requestLog) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/v1") && !strings.HasSuffix(r.URL.Path, "/leases") &&
		(q.Get("watch") == "" || q.Get("sendInitialEvents") == "true") {
		l.fresh.Add(1)
		l.last.Store(r.URL.String())
	}
	return l.RoundTripper.RoundTrip(r)
}

func logRequests(config *rest.Config) *requestLog {
	l := &requestLog{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		l.RoundTripper = next
		return l
	})
	return l
}

// TestInformers runs informers over every served kind: they sync, follow, and outlive a restart of the server without
// reading anew what did not change.
func TestInformers(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	config := s.viewer()
	log := logRequests(config)
	typed := informers.NewSharedInformerFactory(client(t, config), 0)
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	untyped := dynamicinformer.NewDynamicSharedInformerFactory(dynamicClient, 0)
	stores := map[*kinds.Kind]cache.SharedIndexInformer{}
	for _, k := range kinds.All {
		if k.Resource == "secrets" {
			continue // not for viewers
		}
		if k.Group == "lockstep.dev" {
			stores[k] = untyped.ForResource(k.GroupVersionResource()).Informer()
			continue
		}
		generic, err := typed.ForResource(k.GroupVersionResource())
		if err != nil {
			t.Fatal(err)
		}
		stores[k] = generic.Informer()
	}
	pods := &recorder{seen: map[string]int{}}
	if _, err := stores[kinds.For[*corev1.Pod]()].AddEventHandler(pods); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	typed.Start(stop)
	untyped.Start(stop)
	defer typed.Shutdown()
	defer untyped.Shutdown()
	defer close(stop)
	eventually.Nil(t, 20*time.Second, "all kinds are synced", func() error {
		for k, i := range stores {
			if want := s.store.View().Len(k.GroupResource()); !i.HasSynced() || len(i.GetStore().ListKeys()) != want {
				return fmt.Errorf("%s: %d of %d", k.Resource, len(i.GetStore().ListKeys()), want)
			}
		}
		return nil
	})
	before := log.fresh.Load()

	// Every object of a transaction is seen, whether the watch is cut in it or not: the server goes away right after.
	group := func(round int) {
		var writes []store.Write
		for i := range 50 {
			writes = append(writes, put(testPod("shop", fmt.Sprintf("burst-%d-%d", round, i), "n1")))
		}
		s.commit(writes...)
	}
	for round := range 2 {
		eventually.Nil(t, 20*time.Second, "all kinds are watched", func() error {
			if n := s.server.stays.count(); n != len(stores) {
				return fmt.Errorf("%d of %d", n, len(stores))
			}
			return nil
		})
		time.Sleep(1500 * time.Millisecond) // client-go lists again where a watch without events ended within a second
		group(2 * round)
		s.restart()
		group(2*round + 1)
		want := 100 * (round + 1)
		eventually.Nil(t, 20*time.Second, "all pods are seen", func() error {
			if n := pods.count("burst-"); n != want {
				return fmt.Errorf("%d of %d", n, want)
			}
			return nil
		})
	}
	if fresh := log.fresh.Load() - before; fresh != 0 {
		t.Errorf("after the restarts %d lists were read anew, the last one %v", fresh, log.last.Load())
	}
}

// recorder counts the pods it was told of.
type recorder struct {
	mu   sync.Mutex
	seen map[string]int
}

func (r *recorder) note(o any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[o.(*corev1.Pod).Name]++
}

// OnAdd implements cache.ResourceEventHandler.
func (r *recorder) OnAdd(o any, _ bool) { r.note(o) }

// OnUpdate implements cache.ResourceEventHandler.
func (r *recorder) OnUpdate(_, o any) { r.note(o) }

// OnDelete implements cache.ResourceEventHandler.
func (r *recorder) OnDelete(any) {}

func (r *recorder) count(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for name := range r.seen {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
