package api

import (
	"context"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// shownStorage reads events as events.k8s.io/v1 has them: they are those of v1, in other words.
type shownStorage struct{ *storage }

var (
	_ rest.Getter  = shownStorage{}
	_ rest.Lister  = shownStorage{}
	_ rest.Watcher = shownStorage{}
)

// New implements rest.Storage.
func (shownStorage) New() runtime.Object { return &eventsv1.Event{} }

// NewList implements rest.Lister.
func (shownStorage) NewList() runtime.Object { return &eventsv1.EventList{} }

// Get implements rest.Getter.
func (s shownStorage) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	o, err := s.storage.Get(ctx, name, opts)
	return showEvent(o), err
}

// List implements rest.Lister.
func (s shownStorage) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	o, err := s.storage.List(ctx, opts)
	return showEvents(o), err
}

// Watch implements rest.Watcher.
func (s shownStorage) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (apiwatch.Interface, error) {
	inner, err := s.storage.Watch(ctx, opts)
	if err != nil {
		return nil, err
	}
	w := &shownWatch{Interface: inner, out: make(chan apiwatch.Event), stopped: make(chan struct{})}
	go w.run()
	return w, nil
}

// ConvertToTable implements rest.TableConvertor.
func (s shownStorage) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	stored := o
	switch o := o.(type) {
	case *eventsv1.Event:
		stored = strategy.StoredEvent(o)
	case *eventsv1.EventList:
		list := &corev1.EventList{ListMeta: o.ListMeta, Items: make([]corev1.Event, len(o.Items))}
		for i := range o.Items {
			list.Items[i] = *strategy.StoredEvent(&o.Items[i])
		}
		stored = list
	}
	table, err := s.storage.ConvertToTable(ctx, stored, options)
	if err != nil {
		return nil, err
	}
	for i := range table.Rows {
		table.Rows[i].Object.Object = showEvent(table.Rows[i].Object.Object)
	}
	return table, nil
}

// showEvent returns an event as it is shown, also one that is encoded already, and everything else as it is.
func showEvent(o runtime.Object) runtime.Object {
	if encoded, ok := o.(runtime.CacheableObject); ok {
		o = encoded.GetObject()
	}
	if e, ok := o.(*corev1.Event); ok {
		return strategy.ShownEvent(e)
	}
	return o
}

// showEvents returns a list of events as it is shown; nil of nil.
func showEvents(o runtime.Object) runtime.Object {
	list, ok := o.(*corev1.EventList)
	if !ok {
		return nil
	}
	out := &eventsv1.EventList{ListMeta: list.ListMeta, Items: make([]eventsv1.Event, len(list.Items))}
	for i := range list.Items {
		out.Items[i] = *strategy.ShownEvent(&list.Items[i])
	}
	return out
}

// shownWatch shows what another watch tells.
type shownWatch struct {
	apiwatch.Interface
	out     chan apiwatch.Event
	once    sync.Once
	stopped chan struct{}
}

// run ends when the other watch does, or with Stop.
func (w *shownWatch) run() {
	defer close(w.out)
	for e := range w.Interface.ResultChan() {
		e.Object = showEvent(e.Object)
		select {
		case w.out <- e:
		case <-w.stopped:
			return
		}
	}
}

// ResultChan implements apiwatch.Interface.
func (w *shownWatch) ResultChan() <-chan apiwatch.Event { return w.out }

// Stop implements apiwatch.Interface.
func (w *shownWatch) Stop() {
	w.once.Do(func() { close(w.stopped) })
	w.Interface.Stop()
}

// shownChange writes events that come as events.k8s.io/v1 has them.
type shownChange struct{ *change }

var (
	_ rest.Creater           = shownChange{}
	_ rest.Patcher           = shownChange{}
	_ rest.CollectionDeleter = shownChange{}
)

// New implements rest.Creater.
func (shownChange) New() runtime.Object { return &eventsv1.Event{} }

// Get implements rest.Patcher.
func (c shownChange) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	o, err := c.change.Get(ctx, name, opts)
	return showEvent(o), err
}

// Create implements rest.Creater.
func (c shownChange) Create(ctx context.Context, o runtime.Object, validate rest.ValidateObjectFunc,
	opts *metav1.CreateOptions) (runtime.Object, error) {
	out, err := c.change.Create(ctx, strategy.StoredEvent(o.(*eventsv1.Event)), validate, opts)
	return showEvent(out), err
}

// Update implements rest.Updater.
func (c shownChange) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	out, made, err := c.change.Update(ctx, name, shownInfo{info}, create, update, force, opts)
	return showEvent(out), made, err
}

// DeleteCollection implements rest.CollectionDeleter.
func (c shownChange) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions,
	which *metainternalversion.ListOptions) (runtime.Object, error) {
	list, err := c.change.DeleteCollection(ctx, validate, opts, which)
	return showEvents(list), err
}

// shownInfo makes of a stored event what a request makes of the shown one.
type shownInfo struct{ rest.UpdatedObjectInfo }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (i shownInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	o, err := i.UpdatedObjectInfo.UpdatedObject(ctx, showEvent(old))
	if err != nil {
		return nil, err
	}
	return strategy.StoredEvent(o.(*eventsv1.Event)), nil
}

// shownEvents are the handlers of events as events.k8s.io/v1 has them: its recorders write them so.
func (s *server) shownEvents() map[route]http.Handler {
	k, shown := kinds.For[*corev1.Event](), kinds.Shown[0]
	read := &storage{kind: k, server: s}
	shows := shownStorage{read}
	scope := scopeFor(shown.GroupVersionKind, shown.GroupVersionResource(), false)
	scope.TableConvertor = shows
	writes := *scope
	as := *changes(read)[0] // it differs by the rules of the version alone
	as.in = shown.GroupVersion()
	as.prepare = func(new, old kinds.Object) field.ErrorList { return strategy.PrepareUpdateIn(as.in, new, old) }
	writes.MaxRequestBodyBytes = int64(as.body)
	change := shownChange{&as}
	at := func(verb string) route { return route{gvr: shown.GroupVersionResource(), verb: verb} }
	return map[route]http.Handler{
		at("get"):    handlers.GetResource(shows, scope),
		at("list"):   handlers.ListResource(shows, shows, scope, false, minWatch),
		at("watch"):  handlers.ListResource(shows, shows, scope, true, minWatch),
		at("create"): handlers.CreateResource(change, &writes, nil),
		at("update"): handlers.UpdateResource(change, &writes, nil),
		at("patch"):  change.bodies(handlers.PatchResource(change, &writes, nil, patchTypes)),
		at("delete"): handlers.DeleteResource(change, true, &writes, nil),

		at("deletecollection"): handlers.DeleteCollection(change, true, &writes, nil),
	}
}
