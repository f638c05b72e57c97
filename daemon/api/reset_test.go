package api

import (
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"lockstep/kinds/strategy"
	"lockstep/store/memory"
)

// reset has the server lose everything, as with its etcd, and come back at the same address.
func (s *testServer) reset() {
	s.t.Helper()
	s.store = memory.NewWith(memory.Options{Default: strategy.Default})
	s.stop()
	s.opts.Store, s.opts.Registerer = s.store, nil
	s.start(s.address)
}

// TestRevisionsOfALostHistory reads and watches at revisions that the store has never reached: 410, and at once.
func TestRevisionsOfALostHistory(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil))
	c := client(t, s.viewer())
	future := fmt.Sprint(s.store.View().Revision() + 1000)
	yes := true
	began := time.Now()
	for name, opts := range map[string]metav1.ListOptions{
		"watch":               {ResourceVersion: future},
		"watch with bookmark": {ResourceVersion: future, AllowWatchBookmarks: true},
		"watch list": {
			ResourceVersion: future, SendInitialEvents: &yes, AllowWatchBookmarks: true,
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		},
	} {
		expect(t, name, take(t, watchMaps(t, c, opts), 1), "ERROR Expired")
	}
	for name, opts := range map[string]metav1.ListOptions{
		"list":                {ResourceVersion: future},
		"list not older than": {ResourceVersion: future, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
		"list exactly":        {ResourceVersion: future, ResourceVersionMatch: metav1.ResourceVersionMatchExact},
	} {
		if _, err := c.CoreV1().ConfigMaps("a").List(t.Context(), opts); !apierrors.IsResourceExpired(err) {
			t.Errorf("%s: %v, want Expired", name, err)
		}
	}
	if _, err := c.CoreV1().ConfigMaps("a").Get(t.Context(), "one",
		metav1.GetOptions{ResourceVersion: future}); !apierrors.IsResourceExpired(err) {
		t.Errorf("get: %v, want Expired", err)
	}
	if took := time.Since(began); took >= 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestInformersOfALostHistory has the store lost under a running informer, which has the new one's objects at once.
func TestInformersOfALostHistory(t *testing.T) {
	s := newTestServer(t, nil)
	for i := range 50 {
		s.put(configMap("a", fmt.Sprint("old-", i), nil))
	}
	factory := informers.NewSharedInformerFactory(client(t, s.viewer()), 0)
	informer := factory.Core().V1().ConfigMaps().Informer()
	stop := make(chan struct{})
	defer factory.Shutdown()
	defer close(stop)
	factory.Start(stop)
	cache.WaitForCacheSync(stop, informer.HasSynced)

	s.reset()
	s.put(configMap("a", "new", nil))
	began := time.Now()
	for {
		if keys := informer.GetStore().ListKeys(); len(keys) == 1 && keys[0] == "a/new" {
			break
		}
		if time.Since(began) > 20*time.Second { // client-go's pause after a cut watch is about a second
			t.Fatalf("after %v the informer has %d objects", time.Since(began), len(informer.GetStore().ListKeys()))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("the informer noticed after %v", time.Since(began))
}
