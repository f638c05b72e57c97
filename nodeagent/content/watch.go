package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/nodeagent/pods"
)

const (
	// maxWatched bounds the objects that are watched, each a stream to the API;
	// what pods refer to beyond that is read when it is asked for.
	maxWatched = 200
	// watchRetry is the pause before a watch that ended is made again.
	watchRetry = time.Second
)

// Follow watches the objects that pods refer to, and no others, until ctx ends. It may be called again at any time; what it
// watches already goes on.
func (s *Store) Follow(ctx context.Context, wanted map[pods.Reference]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, stop := range s.watched {
		if !wanted[ref] {
			stop()
			delete(s.watched, ref)
		}
	}
	for ref := range wanted {
		if s.watched[ref] != nil || len(s.watched) >= maxWatched {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		s.watched[ref] = stop
		s.watches.Go(func() { s.watch(ctx, ref) })
	}
}

// Wait returns when all watches have ended, after the ctx of Follow has.
func (s *Store) Wait() { s.watches.Wait() }

// Watched is how many objects are watched.
func (s *Store) Watched() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watched)
}

// watch keeps what is known of an object up to date until ctx ends.
func (s *Store) watch(ctx context.Context, ref pods.Reference) {
	for ctx.Err() == nil {
		// A watch that cannot be made is no fault: the object is read now and then all the same.
		_ = s.watchOnce(ctx, ref)
		s.mu.Lock()
		if last, ok := s.known[ref]; ok {
			last.live = false
			s.known[ref] = last
		}
		s.mu.Unlock()
		sleep.For(ctx, watchRetry)
	}
}

func (s *Store) watchOnce(ctx context.Context, ref pods.Reference) error {
	api := s.opts.API()
	if api == nil {
		return errors.New("not connected to the API")
	}
	opts := metav1.ListOptions{
		FieldSelector:     fields.OneTermEqualSelector(metav1.ObjectNameField, ref.Name).String(),
		SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	}
	var w watch.Interface
	var err error
	switch ref.Resource {
	case pods.Secrets:
		w, err = api.CoreV1().Secrets(ref.Namespace).Watch(ctx, opts)
	case pods.RuntimeClasses:
		w, err = api.NodeV1().RuntimeClasses().Watch(ctx, opts)
	case pods.PersistentVolumeClaims:
		w, err = api.CoreV1().PersistentVolumeClaims(ref.Namespace).Watch(ctx, opts)
	default:
		w, err = api.CoreV1().ConfigMaps(ref.Namespace).Watch(ctx, opts)
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
			return fmt.Errorf("cannot watch %s: got a %T", ref.Name, e.Object)
		case e.Type == watch.Bookmark:
			whole = whole || object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
			seen.revision = kinds.Revision(object)
		case e.Type == watch.Deleted:
			seen = fetched{revision: kinds.Revision(object)}
		default:
			seen = fetched{object: object, revision: kinds.Revision(object)}
		}
		if whole {
			s.learn(ref, seen)
		}
	}
	return nil
}

// learn takes in an object as a watch has it, or its absence.
func (s *Store) learn(ref pods.Reference, seen fetched) {
	s.mu.Lock()
	last, ok := s.known[ref]
	s.mu.Unlock()
	seen.live = true
	now := s.take(ref, seen)
	if ok && sameState(last.object, now.object) {
		return
	}
	if err := s.keepNewest(ref); err != nil {
		s.opts.Log.Warn("cannot keep object", "error", err)
	}
	s.opts.Changed(ref)
}

// latest is the object as its watch has it, or else as get returns it.
func (s *Store) latest(ctx context.Context, ref pods.Reference) (metav1.Object, error) {
	s.mu.Lock()
	last, ok := s.known[ref]
	s.mu.Unlock()
	switch {
	case !ok || !last.live:
		return s.get(ctx, ref)
	case last.object == nil:
		return s.absent(ref, notFound(ref))
	}
	return last.object, nil
}

func notFound(ref pods.Reference) error {
	group := ""
	if ref.Resource == pods.RuntimeClasses {
		group = nodev1.GroupName
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: group, Resource: string(ref.Resource)}, ref.Name)
}

// Latest has objects as their watches have them, or else as the store does: without a question to the API for each.
func (s *Store) Latest() Latest { return Latest{s} }

// Latest is a Store that believes its watches.
type Latest struct{ store *Store }

// ConfigMap is as the store's.
func (l Latest) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	got, err := l.store.latest(ctx, pods.Reference{Resource: pods.ConfigMaps, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.ConfigMap), nil
}

// PersistentVolumeClaim is as the store's.
func (l Latest) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	got, err := l.store.latest(ctx, pods.Reference{Resource: pods.PersistentVolumeClaims, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.PersistentVolumeClaim), nil
}

// Secret is as the store's.
func (l Latest) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	got, err := l.store.latest(ctx, pods.Reference{Resource: pods.Secrets, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.Secret), nil
}
