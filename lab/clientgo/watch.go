package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// resync is how often informers tell again what they have, as many programs want it.
const resync = 10 * time.Second

// watched is one resource: what its informer has, and what it was refused last, if it was not answered since.
type watched struct {
	resource string
	informer cache.SharedIndexInformer

	mu      sync.Mutex
	refusal error
}

func (w *watched) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusal = err
}

// String is the resource's line of the page.
func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusal != nil {
		return fmt.Sprintf("%s: refused: %v", w.resource, w.refusal)
	}
	if !w.informer.HasSynced() {
		return w.resource + ": not listed yet"
	}
	var names []string
	for _, object := range w.informer.GetStore().List() {
		if o, err := meta.Accessor(object); err == nil {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("%s: %d: %s", w.resource, len(names), strings.Join(names, " "))
}

// answered forgets what a resource was refused when a later request for it is answered: informers tell of errors alone.
type answered struct {
	next http.RoundTripper
	all  map[string]*watched
}

// RoundTrip implements http.RoundTripper.
func (a answered) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := a.next.RoundTrip(r)
	if w := a.all[path.Base(r.URL.Path)]; w != nil && err == nil && response.StatusCode == http.StatusOK {
		w.note(nil)
	}
	return response, err
}

// watch answers on the port with a line for each resource.
func watch(ctx context.Context, config *rest.Config, namespace, port string, resources []string) error {
	all := map[string]*watched{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return answered{next, all} })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, resync, informers.WithNamespace(namespace))
	for _, text := range resources {
		folder, resource := path.Split(text)
		version, err := schema.ParseGroupVersion(path.Clean(folder))
		if err != nil {
			return err
		}
		generic, err := factory.ForResource(version.WithResource(resource))
		if err != nil {
			return err
		}
		w := &watched{resource: resource, informer: generic.Informer()}
		note := func(_ context.Context, _ *cache.Reflector, err error) { w.note(err) }
		if err := w.informer.SetWatchErrorHandlerWithContext(note); err != nil {
			return err
		}
		all[resource] = w
	}
	ctx, stop := context.WithCancel(ctx)
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer stop()
	page := func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			_, _ = fmt.Fprintln(w, all[name])
		}
	}
	server := &http.Server{Addr: ":" + port, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(page)}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}
