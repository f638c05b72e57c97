package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/volumes"
)

const (
	// fresh is how long a fetched object serves other containers that start
	// at the same time.
	fresh      = time.Second
	apiTimeout = 10 * time.Second
)

// reference names a ConfigMap or a Secret.
type reference struct {
	secret          bool
	namespace, name string
}

func (r reference) file() string {
	kind := "configmaps"
	if r.secret {
		kind = "secrets"
	}
	return filepath.Join(kind, r.namespace+"_"+r.name+".json")
}

// objects are the ConfigMaps and Secrets that this node's pods refer to. They
// are kept on disk, private to root, so that pods start as specified while the
// control plane is away.
type objects struct {
	dir string
	api func() kubernetes.Interface // nil while not connected
	log *slog.Logger
	// changed is told of each change that a watch brings.
	changed func(reference)
	// holds says that what is kept counts where the API knows nothing of it. Nil: it never does.
	holds   func() bool
	watches sync.WaitGroup

	keeping sync.Mutex // taken before mu
	onDisk  map[reference]metav1.Object

	mu      sync.Mutex
	known   map[reference]fetched
	watched map[reference]context.CancelFunc
}

type fetched struct {
	object metav1.Object // nil: the API says there is none
	// revision of the object, or of its absence: nothing older is taken in after it.
	revision uint64
	at       time.Time
	live     bool // a watch keeps it up to date
}

func (o *objects) configMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	got, err := o.get(ctx, reference{false, namespace, name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.ConfigMap), nil
}

func (o *objects) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	got, err := o.get(ctx, reference{true, namespace, name})
	if err != nil {
		return nil, err
	}
	return got.(*corev1.Secret), nil
}

// get returns the object as the API has it, or as it was last known when the
// API does not answer. apierrors.IsNotFound says that there is none.
func (o *objects) get(ctx context.Context, ref reference) (metav1.Object, error) {
	o.mu.Lock()
	last, ok := o.known[ref]
	o.mu.Unlock()
	if ok && time.Since(last.at) < fresh && last.object != nil {
		return last.object, nil
	}
	began := time.Now()
	object, err := o.fetch(ctx, ref)
	switch {
	case err == nil:
		if now := o.take(ref, fetched{object: object, revision: revisionOf(object)}); now.object != nil {
			return now.object, o.keepNewest(ref)
		}
		return o.absent(ref, notFound(ref)) // deleted since
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		if apierrors.IsNotFound(err) {
			o.mu.Lock()
			if now := o.known[ref]; !now.live && now.at.Before(began) {
				o.known[ref] = fetched{revision: now.revision, at: time.Now()}
			}
			o.mu.Unlock()
		}
		return o.absent(ref, err)
	}
	if ok && last.object != nil {
		return last.object, nil
	}
	if kept := o.kept(ref); kept != nil {
		return kept, nil
	}
	return nil, err
}

// absent returns the error with which the API says that it has no such object, or what is kept of it where that counts.
func (o *objects) absent(ref reference, err error) (metav1.Object, error) {
	if o.holds != nil && o.holds() {
		if kept := o.kept(ref); kept != nil {
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
func (o *objects) take(ref reference, next fetched) fetched {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.known[ref]
	next.at, next.live = time.Now(), next.live || last.live
	if next.revision < last.revision {
		next.object, next.revision = last.object, last.revision
	}
	o.known[ref] = next
	return next
}

// startAnew forgets the order of what is known: the API's revisions are other ones now.
func (o *objects) startAnew() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref, last := range o.known {
		last.revision, last.live = 0, false
		o.known[ref] = last
	}
}

// revisionOf is an object's resource version, a number that grows; 0 for what is no number.
func revisionOf(o metav1.Object) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return n
}

func (o *objects) fetch(ctx context.Context, ref reference) (metav1.Object, error) {
	api := o.api()
	if api == nil {
		return nil, errors.New("not connected to the API")
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if ref.secret {
		s, err := api.CoreV1().Secrets(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
		return s, err
	}
	c, err := api.CoreV1().ConfigMaps(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
	return c, err
}

// keepNewest writes what is known of an object to the disk; of several writers, the last writes the newest.
func (o *objects) keepNewest(ref reference) error {
	o.keeping.Lock()
	defer o.keeping.Unlock()
	o.mu.Lock()
	last := o.known[ref]
	o.mu.Unlock()
	if last.object == nil || sameState(last.object, o.onDisk[ref]) {
		return nil
	}
	if err := o.keep(ref, last.object); err != nil {
		return err
	}
	o.onDisk[ref] = last.object
	return nil
}

func (o *objects) keep(ref reference, object metav1.Object) error {
	path := filepath.Join(o.dir, ref.file())
	data, err := json.Marshal(object)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replaceFile(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep %s: %w", ref.file(), err)
	}
	return nil
}

func (o *objects) kept(ref reference) metav1.Object {
	data, err := os.ReadFile(filepath.Join(o.dir, ref.file()))
	if err != nil {
		return nil
	}
	var object metav1.Object = &corev1.ConfigMap{}
	if ref.secret {
		object = &corev1.Secret{}
	}
	if json.Unmarshal(data, object) != nil {
		return nil
	}
	return object
}

// forget drops what no pod refers to any more.
func (o *objects) forget(used map[reference]bool) {
	o.keeping.Lock()
	defer o.keeping.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref := range o.known {
		if !used[ref] {
			delete(o.known, ref)
			delete(o.onDisk, ref)
		}
	}
	files := map[string]bool{}
	for ref := range used {
		files[ref.file()] = true
	}
	paths, _ := filepath.Glob(filepath.Join(o.dir, "*", "*.json"))
	for _, path := range paths {
		if rel, err := filepath.Rel(o.dir, path); err == nil && !files[rel] {
			_ = os.Remove(path) // tried again at the next round
		}
	}
}

// references are the objects that a pod names.
func references(p *corev1.Pod) map[reference]bool {
	out := map[reference]bool{}
	configMap := func(name string) { out[reference{false, p.Namespace, name}] = true }
	secret := func(name string) { out[reference{true, p.Namespace, name}] = true }
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				configMap(e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				secret(e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				configMap(e.ValueFrom.ConfigMapKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secret(e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil {
			configMap(v.ConfigMap.Name)
		}
		if v.Secret != nil {
			secret(v.Secret.SecretName)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					configMap(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					secret(s.Secret.Name)
				}
			}
		}
	}
	for _, s := range p.Spec.ImagePullSecrets {
		secret(s.Name)
	}
	return out
}

// envSources fetches what a container's environment refers to.
func (a *Agent) envSources(ctx context.Context, o *corev1.Pod, c *corev1.Container) (spec.Sources, error) {
	a.waitForServices(ctx)
	s := spec.Sources{ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{}, Services: a.services(o.Namespace)}
	only := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace}, Spec: corev1.PodSpec{Containers: []corev1.Container{*c}}}
	for ref := range references(only) {
		var err error
		if ref.secret {
			if s.Secrets[ref.name], err = a.objects.secret(ctx, ref.namespace, ref.name); err != nil {
				delete(s.Secrets, ref.name)
			}
		} else if s.ConfigMaps[ref.name], err = a.objects.configMap(ctx, ref.namespace, ref.name); err != nil {
			delete(s.ConfigMaps, ref.name)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return s, fmt.Errorf("cannot read %s: %w", ref.name, err)
		}
	}
	return s, nil
}

// volumeSources is where volumes get their content from.
func (a *Agent) volumeSources(ctx context.Context) volumes.Sources {
	return volumes.Sources{
		ConfigMap: func(ns, name string) (*corev1.ConfigMap, error) { return a.objects.configMap(ctx, ns, name) },
		Secret:    func(ns, name string) (*corev1.Secret, error) { return a.objects.secret(ctx, ns, name) },

		Allocatable: a.nodeFacts().Allocatable,
	}
}

// latestSources are as new as the watches' last word, without a question to
// the API for each volume.
func (a *Agent) latestSources(ctx context.Context) volumes.Sources {
	return volumes.Sources{
		ConfigMap: func(ns, name string) (*corev1.ConfigMap, error) {
			got, err := a.objects.latest(ctx, reference{false, ns, name})
			if err != nil {
				return nil, err
			}
			return got.(*corev1.ConfigMap), nil
		},
		Secret: func(ns, name string) (*corev1.Secret, error) {
			got, err := a.objects.latest(ctx, reference{true, ns, name})
			if err != nil {
				return nil, err
			}
			return got.(*corev1.Secret), nil
		},
		Allocatable: a.nodeFacts().Allocatable,
	}
}
