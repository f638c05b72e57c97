package reconcilers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"

	"lockstep/reconcilers/loop"
)

// oracleAPI is what the API servers of the worlds in which a controller of Kubernetes runs beside ours have in common.
type oracleAPI struct {
	mu       sync.Mutex
	version  int
	said     map[string]bool
	tellings int
	// plain leaves names that are made up out of what is told.
	plain func(string) string
	show  func(watch.EventType, runtime.Object)
}

func newOracleAPI(plain func(string) string) oracleAPI {
	return oracleAPI{version: 1, said: map[string]bool{}, plain: plain, show: func(watch.EventType, runtime.Object) {}}
}

func (w *oracleAPI) next() string {
	w.version++
	return fmt.Sprint(w.version)
}

func (w *oracleAPI) tell(kind, reason, message string) {
	w.tellings++
	w.said[kind+" "+reason+" "+w.plain(message)] = true
}

// tellOf tells an event of a decision, about the object of that name.
func (w *oracleAPI) tellOf(e *loop.Event, name string) {
	if e != nil {
		w.tell(e.Type, e.Reason, strings.ReplaceAll(e.Message, "{name}", name))
	}
}

// told wants that what Kubernetes tells, ours tells, and nothing else. Kubernetes drops what is told too often, and tells what is
// stale where it has not seen its own writes yet.
func told(t *testing.T, theirs, ours *oracleAPI, stale func(string) bool, of fmt.Stringer) {
	t.Helper()
	for e := range theirs.said {
		if !ours.said[e] && !stale(e) && !strings.Contains(e, "(combined from") {
			t.Errorf("Kubernetes tells, and ours does not: %s\n%s", e, of)
		}
	}
	for e := range ours.said {
		if !theirs.said[e] && theirs.tellings < 20 {
			t.Errorf("ours tells, and Kubernetes does not: %s\n%s", e, of)
		}
	}
}

// runs lets a controller of Kubernetes run, until stop is called or the test is over.
func runs(
	ctx context.Context, t *testing.T, cancel func(), factory informers.SharedInformerFactory, run func(context.Context, int),
) (stop func()) {
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx, 1)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		factory.Shutdown()
	})
	t.Cleanup(stop)
	return stop
}

func toJSON(o any) string {
	body, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(body)
}

// stored is an object as it is after a trip to an API server, which knows no parts of seconds.
func stored[T any](o *T) *T {
	out := new(T)
	if err := json.Unmarshal([]byte(toJSON(o)), out); err != nil {
		panic(err)
	}
	return out
}
