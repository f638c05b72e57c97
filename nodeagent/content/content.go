// Package content knows the ConfigMaps, Secrets, RuntimeClasses, claims and volumes that pods of a node refer to.
package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/whole"
	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/sealing"
)

const (
	// fresh is how long a fetched object serves other containers that start
	// at the same time.
	fresh = time.Second
	// apiTimeout bounds one question, which takes milliseconds; a server that starts may need seconds.
	apiTimeout = 10 * time.Second
)

// fileOf is where an object is kept.
func fileOf(r pods.Reference) string {
	return filepath.Join(string(r.Resource), r.Namespace+"_"+r.Name+".json")
}

// place is what a kept Secret is sealed for.
func place(file string) string { return "objects/" + file }

// Seal seals the Secrets that an older agent has kept as they are.
func (s *Store) Seal() error {
	dir := string(pods.Secrets)
	return s.opts.Sealer.SealAll(filepath.Join(s.opts.Dir, dir), func(name string) string { return place(filepath.Join(dir, name)) })
}

// Options say where a Store works.
type Options struct {
	// Dir is where objects are kept; it is made when needed, private to root.
	Dir string
	// API is the connection to the API; nil while there is none.
	API func() client.Interface
	Log *slog.Logger
	// Sealer seals the Secrets that are kept. The zero value keeps them as they are.
	Sealer sealing.Sealer
	// Changed is told of each change that a watch brings, from the watch's goroutine.
	Changed func(pods.Reference)
	// Holds says that what is kept counts where the API knows nothing of it. Nil: it never does.
	Holds func() bool
}

// Store has the ConfigMaps, Secrets, RuntimeClasses, claims and volumes that a node's pods refer to. They are kept on disk, so that
// pods start as specified while the control plane is away. What it returns is shared: copy before you change.
type Store struct {
	opts    Options
	watches sync.WaitGroup

	keeping sync.Mutex // taken before mu
	onDisk  map[pods.Reference]metav1.Object

	mu      sync.Mutex
	known   map[pods.Reference]fetched
	watched map[pods.Reference]context.CancelFunc
}

// New returns a store that knows what is kept; it starts nothing.
func New(o Options) *Store {
	return &Store{opts: o, onDisk: map[pods.Reference]metav1.Object{}, known: map[pods.Reference]fetched{},
		watched: map[pods.Reference]context.CancelFunc{}}
}

type fetched struct {
	object metav1.Object // nil: the API says there is none
	// revision of the object, or of its absence: nothing older is taken in after it.
	revision int64
	at       time.Time
	live     bool // a watch keeps it up to date
}

// ConfigMap is one as the API has it, or as it was last known when the API does not answer. apierrors.IsNotFound says that
// there is none.
func (s *Store) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	got, err := s.get(ctx, pods.Reference{Resource: pods.ConfigMaps, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.ConfigMap), nil
}

// Secret is as ConfigMap.
func (s *Store) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	got, err := s.get(ctx, pods.Reference{Resource: pods.Secrets, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.Secret), nil
}

// RuntimeClass is as ConfigMap.
func (s *Store) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	got, err := s.get(ctx, pods.Reference{Resource: pods.RuntimeClasses, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*nodev1.RuntimeClass), nil
}

// PersistentVolumeClaim is as ConfigMap.
func (s *Store) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	got, err := s.get(ctx, pods.Reference{Resource: pods.PersistentVolumeClaims, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.PersistentVolumeClaim), nil
}

// PersistentVolume is as ConfigMap.
func (s *Store) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	got, err := s.get(ctx, pods.Reference{Resource: pods.PersistentVolumes, Name: name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.PersistentVolume), nil
}

// Bound are the volumes that claims are bound to, as far as those are known or kept.
func (s *Store) Bound(used map[pods.Reference]bool) map[pods.Reference]bool {
	out := map[pods.Reference]bool{}
	for ref := range used {
		if ref.Resource != pods.PersistentVolumeClaims {
			continue
		}
		if claim, ok := s.Last(ref).(*corev1.PersistentVolumeClaim); ok && claim.Spec.VolumeName != "" {
			out[pods.Reference{Resource: pods.PersistentVolumes, Name: claim.Spec.VolumeName}] = true
		}
	}
	return out
}

// Last is an object as it was last known, or kept; nil: it is not. It does not ask the API.
func (s *Store) Last(ref pods.Reference) metav1.Object {
	s.mu.Lock()
	object := s.known[ref].object
	s.mu.Unlock()
	if object == nil {
		object = s.kept(ref)
	}
	return object
}

// get returns the object as the API has it, or as it was last known when the
// API does not answer. apierrors.IsNotFound says that there is none.
func (s *Store) get(ctx context.Context, ref pods.Reference) (metav1.Object, error) {
	s.mu.Lock()
	last, ok := s.known[ref]
	s.mu.Unlock()
	if ok && time.Since(last.at) < fresh && last.object != nil {
		return last.object, nil
	}
	began := time.Now()
	object, err := s.fetch(ctx, ref)
	switch {
	case err == nil:
		if now := s.take(ref, fetched{object: object, revision: kinds.Revision(object)}); now.object != nil {
			return now.object, s.keepNewest(ref)
		}
		return s.absent(ref, notFound(ref)) // deleted since
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		if apierrors.IsNotFound(err) {
			s.mu.Lock()
			if now := s.known[ref]; !now.live && now.at.Before(began) {
				s.known[ref] = fetched{revision: now.revision, at: time.Now()}
			}
			s.mu.Unlock()
		}
		return s.absent(ref, err)
	}
	if ok && last.object != nil {
		return last.object, nil
	}
	if kept := s.kept(ref); kept != nil {
		return kept, nil
	}
	return nil, err
}

// absent returns the error with which the API says that it has no such object, or what is kept of it where that counts.
func (s *Store) absent(ref pods.Reference, err error) (metav1.Object, error) {
	if s.opts.Holds != nil && s.opts.Holds() {
		if kept := s.kept(ref); kept != nil {
			return kept, nil
		}
	}
	return nil, err
}

// sameState says whether two states of an object, or its absence, are one.
func sameState(a, b metav1.Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}

// take takes in what an answer says, unless something newer is known: answers come by several ways, and some late. It
// returns what is known then.
func (s *Store) take(ref pods.Reference, next fetched) fetched {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.known[ref]
	next.at, next.live = time.Now(), next.live || last.live
	if next.revision < last.revision {
		next.object, next.revision = last.object, last.revision
	}
	s.known[ref] = next
	return next
}

// StartAnew forgets the order of what is known: the API's revisions are other ones now.
func (s *Store) StartAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, last := range s.known {
		last.revision, last.live = 0, false
		s.known[ref] = last
	}
}

func (s *Store) fetch(ctx context.Context, ref pods.Reference) (metav1.Object, error) {
	api := s.opts.API()
	if api == nil {
		return nil, errors.New("not connected to the API")
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	switch ref.Resource {
	case pods.Secrets:
		return api.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case pods.RuntimeClasses:
		return api.NodeV1().RuntimeClasses().Get(ctx, ref.Name, metav1.GetOptions{})
	case pods.PersistentVolumeClaims:
		return api.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case pods.PersistentVolumes:
		return api.CoreV1().PersistentVolumes().Get(ctx, ref.Name, metav1.GetOptions{})
	default:
		return api.CoreV1().ConfigMaps(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
}

// keepNewest writes what is known of an object to the disk; of several writers, the last writes the newest.
func (s *Store) keepNewest(ref pods.Reference) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	last := s.known[ref]
	s.mu.Unlock()
	if last.object == nil || sameState(last.object, s.onDisk[ref]) {
		return nil
	}
	if err := s.keep(ref, last.object); err != nil {
		return err
	}
	s.onDisk[ref] = last.object
	return nil
}

func (s *Store) keep(ref pods.Reference, object metav1.Object) error {
	path := filepath.Join(s.opts.Dir, fileOf(ref))
	data, err := json.Marshal(object)
	if err == nil && ref.Resource == pods.Secrets {
		data, err = s.opts.Sealer.Seal(place(fileOf(ref)), data)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = whole.Write(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep %s: %w", fileOf(ref), err)
	}
	return nil
}

func (s *Store) kept(ref pods.Reference) metav1.Object {
	data, err := os.ReadFile(filepath.Join(s.opts.Dir, fileOf(ref)))
	if err != nil {
		return nil
	}
	if ref.Resource == pods.Secrets {
		if data, err = s.opts.Sealer.Open(place(fileOf(ref)), data); err != nil {
			s.opts.Log.Warn("what is kept of a Secret cannot be opened with this node's key, and has to be fetched again",
				"secret", ref.Namespace+"/"+ref.Name, "error", err)
			return nil
		}
	}
	var object metav1.Object = &corev1.ConfigMap{}
	switch ref.Resource {
	case pods.Secrets:
		object = &corev1.Secret{}
	case pods.RuntimeClasses:
		object = &nodev1.RuntimeClass{}
	case pods.PersistentVolumeClaims:
		object = &corev1.PersistentVolumeClaim{}
	case pods.PersistentVolumes:
		object = &corev1.PersistentVolume{}
	}
	if json.Unmarshal(data, object) != nil {
		return nil
	}
	return object
}

// Forget drops what no pod refers to any more.
func (s *Store) Forget(used map[pods.Reference]bool) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.known {
		if !used[ref] {
			delete(s.known, ref)
			delete(s.onDisk, ref)
		}
	}
	files := map[string]bool{}
	for ref := range used {
		files[fileOf(ref)] = true
	}
	paths, _ := filepath.Glob(filepath.Join(s.opts.Dir, "*", "*.json"))
	for _, path := range paths {
		if rel, err := filepath.Rel(s.opts.Dir, path); err == nil && !files[rel] {
			_ = os.Remove(path) // tried again at the next round
		}
	}
}
