package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/nodeagent/pods"
)

const (
	// maxWatched bounds the objects that are watched, each a stream to the API;
	// what pods refer to beyond that is read every refreshPeriod.
	maxWatched = 200
	// watchRetry is the pause before a watch that ended is made again.
	watchRetry = time.Second
)

// watchAll watches the objects that pods refer to, and no others.
func (o *objects) watchAll(ctx context.Context, wanted map[reference]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref, stop := range o.watched {
		if !wanted[ref] {
			stop()
			delete(o.watched, ref)
		}
	}
	for ref := range wanted {
		if o.watched[ref] != nil || len(o.watched) >= maxWatched {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		o.watched[ref] = stop
		o.watches.Go(func() { o.watch(ctx, ref) })
	}
}

// watch keeps what is known of an object up to date until ctx ends.
func (o *objects) watch(ctx context.Context, ref reference) {
	for ctx.Err() == nil {
		// A watch that cannot be made is no fault: the object is read now and then all the same.
		_ = o.watchOnce(ctx, ref)
		o.mu.Lock()
		if last, ok := o.known[ref]; ok {
			last.live = false
			o.known[ref] = last
		}
		o.mu.Unlock()
		pause(ctx, watchRetry)
	}
}

func (o *objects) watchOnce(ctx context.Context, ref reference) error {
	api := o.api()
	if api == nil {
		return errors.New("not connected to the API")
	}
	opts := metav1.ListOptions{
		FieldSelector:     fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name).String(),
		SendInitialEvents: ptrTo(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	}
	var w watch.Interface
	var err error
	if ref.secret {
		w, err = api.CoreV1().Secrets(ref.namespace).Watch(ctx, opts)
	} else {
		w, err = api.CoreV1().ConfigMaps(ref.namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	var seen fetched
	whole := false // all that was there at the start has come
	for e := range w.ResultChan() {
		object, isObject := e.Object.(metav1.Object)
		switch {
		case e.Type == watch.Error:
			return apierrors.FromObject(e.Object)
		case !isObject:
			return fmt.Errorf("cannot watch %s: got a %T", ref.name, e.Object)
		case e.Type == watch.Bookmark:
			whole = whole || object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
			seen.revision = revisionOf(object)
		case e.Type == watch.Deleted:
			seen = fetched{revision: revisionOf(object)}
		default:
			seen = fetched{object: object, revision: revisionOf(object)}
		}
		if whole {
			o.learn(ref, seen)
		}
	}
	return nil
}

// learn takes in an object as a watch has it, or its absence.
func (o *objects) learn(ref reference, seen fetched) {
	o.mu.Lock()
	last, ok := o.known[ref]
	o.mu.Unlock()
	seen.live = true
	now := o.take(ref, seen)
	if ok && sameState(last.object, now.object) {
		return
	}
	if err := o.keepNewest(ref); err != nil {
		o.log.Warn("cannot keep object", "error", err)
	}
	o.changed(ref)
}

// latest is the object as its watch has it, or else as get returns it.
func (o *objects) latest(ctx context.Context, ref reference) (metav1.Object, error) {
	o.mu.Lock()
	last, ok := o.known[ref]
	o.mu.Unlock()
	switch {
	case !ok || !last.live:
		return o.get(ctx, ref)
	case last.object == nil:
		return o.absent(ref, notFound(ref))
	}
	return last.object, nil
}

func notFound(ref reference) error {
	resource := "configmaps"
	if ref.secret {
		resource = "secrets"
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, ref.name)
}

// contentDue has the content of a pod's volumes looked at soon.
func (a *Agent) contentDue(uid types.UID) {
	a.mu.Lock()
	a.contents[uid] = true
	a.mu.Unlock()
	poke(a.contentWake)
}

// objectChanged updates the volumes that show the object, and tries again at
// once what failed for want of it.
func (a *Agent) objectChanged(ref reference) {
	for _, p := range a.allPods() {
		object := p.object()
		if !references(object)[ref] {
			continue
		}
		a.contentDue(p.uid)
		p.hear(pods.ContentNews(object, ref.secret, ref.name))
	}
}

func ptrTo[T any](v T) *T { return &v }
