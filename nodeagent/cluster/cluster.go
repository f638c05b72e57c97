// Package cluster knows what a node needs of its cluster: from the API, or from the copy that it keeps of it.
package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"lockstep/nodeagent/client"
	"lockstep/nodeagent/replica"
)

// Snapshot is the cluster at one moment. It is shared and never changed: copy before you do.
type Snapshot struct {
	replica.State
	// Complete says that it is the API's, and that Pods were told of all of the node's pods. Else it is the copy that was kept.
	Complete bool
	// Moves is positive, and grows whenever other routes to the nodes' pods may be wanted: with the nodes that there are,
	// their ranges of pods and their addresses.
	Moves uint64
}

// Node is the node of that name; nil if there is none.
func (s *Snapshot) Node(name string) *corev1.Node {
	if i := slices.IndexFunc(s.Nodes, func(n *corev1.Node) bool { return n.Name == name }); i >= 0 {
		return s.Nodes[i]
	}
	return nil
}

// ServicesOf are those whose variables pods of a namespace see: the namespace's own, and default/kubernetes.
func (s *Snapshot) ServicesOf(namespace string) []*corev1.Service {
	var out []*corev1.Service
	for _, service := range s.Services {
		if service.Namespace == namespace || service.Namespace == "default" && service.Name == "kubernetes" {
			out = append(out, service)
		}
	}
	return out
}

// Pods is told of the pods that are bound to the node, one call after the other.
type Pods interface {
	// Seen has the newest object of a pod, Deleted that the API has it no more.
	Seen(o *corev1.Pod)
	Deleted(uid types.UID)
	// Listed has all pods that there are, each of which was seen, once the snapshot is complete.
	Listed(ctx context.Context, uids map[types.UID]bool)
}

// Options are what a Cluster needs; all of them but Ingress are required.
type Options struct {
	// Node is the node's own name.
	Node string
	// Ingress says that Ingresses and their classes are followed, too.
	Ingress bool
	// File is where the copy is kept.
	File string
	Pods Pods
	// Kept is told how long keeping took, and what it came to.
	Kept func(took time.Duration, err error)
	Log  *slog.Logger
}

// Cluster follows the API, and publishes what it knows.
type Cluster struct {
	opts     Options
	known    chan struct{} // closed when there is a snapshot
	complete chan struct{} // closed when one is complete

	mu    sync.Mutex
	now   *Snapshot // nil until known
	stale bool      // from has more than now
	moves uint64    // see Snapshot.Moves
	from  func() replica.State
	anew  func()        // ends what follows this history; nil: nothing does
	held  chan struct{} // closed when the API may be followed again; nil: it may
	wakes []chan struct{}
}

// New returns a cluster of which nothing is known; it starts nothing.
func New(o Options) *Cluster {
	return &Cluster{opts: o, known: make(chan struct{}), complete: make(chan struct{})}
}

// Known is closed when there is a snapshot.
func (c *Cluster) Known() <-chan struct{} { return c.known }

// Snapshot is the newest one; nil until Known.
func (c *Cluster) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale && c.from != nil {
		c.take()
	}
	return c.now
}

// take makes the newest snapshot; c.mu is held. What the moves count is in the caches by then.
func (c *Cluster) take() {
	c.now, c.stale = &Snapshot{State: c.from(), Complete: true, Moves: c.moves}, false
}

// Subscribe returns a channel of the caller's own, on which there is a wake-up now and after each change of what Snapshot
// returns. It carries nothing; one that is pending stands for all.
func (c *Cluster) Subscribe() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	c.wakes = append(c.wakes, wake)
	return wake
}

// Wake has all subscribers look again.
func (c *Cluster) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wake := range c.wakes {
		select {
		case wake <- struct{}{}:
		default: // a wake-up is pending
		}
	}
}

// Publish states a snapshot, of which it sets Moves, unless the API is followed. It says whether it did.
func (c *Cluster) Publish(s *Snapshot) bool {
	c.mu.Lock()
	if c.from != nil {
		c.mu.Unlock()
		return false
	}
	if c.now == nil {
		close(c.known)
	}
	c.moves++
	s.Moves = c.moves
	c.now = s
	c.mu.Unlock()
	c.Wake()
	return true
}

// Hold has the snapshot stay as it is until Release: the API's history is another one, which may know nothing of what there is.
func (c *Cluster) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(chan struct{})
	}
	if c.anew != nil {
		c.anew()
	}
}

// Release has the API followed again, everything listed anew.
func (c *Cluster) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		close(c.held)
		c.held = nil
	}
}

// changed has the next snapshot taken anew; moved says that other routes may be wanted.
func (c *Cluster) changed(moved bool) {
	c.mu.Lock()
	c.stale = true
	if moved {
		c.moves++
	}
	c.mu.Unlock()
	c.Wake()
}

// Follow follows the API until ctx ends. It starts with nothing whenever the cluster has another history.
func (c *Cluster) Follow(ctx context.Context, api client.Interface) error {
	for ctx.Err() == nil {
		c.mu.Lock()
		held := c.held
		run, stop := context.WithCancel(ctx)
		c.anew = stop
		c.mu.Unlock()
		if held != nil {
			select {
			case <-ctx.Done():
			case <-held:
			}
			stop()
			continue
		}
		err := c.followHistory(ctx, run, api)
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// followHistory returns when run ends and everything it started has; ctx is of what goes on then.
func (c *Cluster) followHistory(ctx, run context.Context, api client.Interface) error {
	core := api.CoreV1()
	services, nodes := informer(core.Services(""), &corev1.Service{}), informer(core.Nodes(), &corev1.Node{})
	namespaces := informer(core.Namespaces(), &corev1.Namespace{})
	endpoints := informer(api.DiscoveryV1().EndpointSlices(""), &discoveryv1.EndpointSlice{})
	pods := cache.NewSharedInformer(cache.NewListWatchFromClient(core.RESTClient(), "pods", corev1.NamespaceAll,
		fields.OneTermEqualSelector("spec.nodeName", c.opts.Node)), &corev1.Pod{}, 0)
	wake := c.handler(false)
	type followed struct {
		cache.SharedInformer
		handler cache.ResourceEventHandler
	}
	all := []followed{{services, wake}, {endpoints, wake}, {namespaces, wake}, {nodes, c.nodeHandler()}, {pods, c.podHandler(run)}}
	var ingresses, classes cache.SharedInformer
	if c.opts.Ingress {
		own, named, err := client.Ingresses(api)
		if err != nil {
			return fmt.Errorf("cannot follow cluster: %w", err)
		}
		ingresses, classes = informer(own, &networkingv1.Ingress{}), informer(named, &networkingv1.IngressClass{})
		all = append(all, followed{ingresses, c.ingressHandler()}, followed{classes, wake})
	}
	var synced []cache.InformerSynced
	for _, i := range all {
		r, err := i.AddEventHandler(i.handler)
		if err == nil {
			err = i.SetTransform(lean)
		}
		if err != nil {
			return fmt.Errorf("cannot follow cluster: %w", err)
		}
		synced = append(synced, r.HasSynced)
	}
	var running sync.WaitGroup
	for _, i := range all {
		running.Go(func() { i.RunWithContext(run) })
	}
	if cache.WaitForCacheSync(run.Done(), synced...) {
		c.follows(func() replica.State {
			s := replica.State{Services: have[*corev1.Service](services), Slices: have[*discoveryv1.EndpointSlice](endpoints),
				Nodes: have[*corev1.Node](nodes), Namespaces: have[*corev1.Namespace](namespaces)}
			if c.opts.Ingress {
				s.Ingresses, s.Classes = have[*networkingv1.Ingress](ingresses), have[*networkingv1.IngressClass](classes)
			}
			return s
		})
		uids := map[types.UID]bool{}
		for _, p := range have[*corev1.Pod](pods) {
			uids[p.UID] = true
		}
		c.opts.Pods.Listed(ctx, uids)
	}
	<-run.Done()
	running.Wait()
	return nil
}

// resource is what a client has of a kind whose lists are an L.
type resource[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// informer keeps all objects of a resource, each as example is; it starts nothing.
func informer[L runtime.Object](r resource[L], example runtime.Object) cache.SharedInformer {
	return cache.NewSharedInformer(&cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) },
		WatchFuncWithContext: r.Watch,
	}, example, 0)
}

// have are the objects that an informer has, in no order.
func have[T any](i cache.SharedInformer) []T {
	var out []T
	for _, o := range i.GetStore().List() {
		out = append(out, o.(T))
	}
	return out
}

// follows has snapshots taken from what is complete as of the API.
func (c *Cluster) follows(from func() replica.State) {
	c.mu.Lock()
	first := c.from == nil
	if c.now == nil {
		close(c.known)
	}
	c.from = from
	c.moves++
	c.take()
	if first {
		close(c.complete)
	}
	c.mu.Unlock()
	c.Wake()
}

// handler has each change in the next snapshot; moves says that other routes may be wanted then.
func (c *Cluster) handler(moves bool) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.changed(moves) },
		UpdateFunc: func(_, _ any) { c.changed(moves) },
		DeleteFunc: func(any) { c.changed(moves) },
	}
}

// ingressHandler passes over what is told of Ingresses, which this node itself leads to.
func (c *Cluster) ingressHandler() cache.ResourceEventHandlerFuncs {
	h := c.handler(false)
	h.UpdateFunc = func(old, o any) {
		a, b := old.(*networkingv1.Ingress), o.(*networkingv1.Ingress)
		if a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Annotations, b.Annotations) {
			c.changed(false)
		}
	}
	return h
}

// nodeHandler passes over what other nodes say of themselves that nobody reads here.
func (c *Cluster) nodeHandler() cache.ResourceEventHandlerFuncs {
	h := c.handler(true)
	h.UpdateFunc = func(old, o any) {
		n := o.(*corev1.Node)
		if moved := !sameRoutes(old.(*corev1.Node), n); moved || n.Name == c.opts.Node {
			c.changed(moved)
		}
	}
	return h
}

// podHandler takes in what an informer tells until ctx ends: what comes later is of a history that has ended.
func (c *Cluster) podHandler(ctx context.Context) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if ctx.Err() == nil {
				c.opts.Pods.Seen(o.(*corev1.Pod))
			}
		},
		UpdateFunc: func(old, o any) {
			if ctx.Err() != nil {
				return
			}
			if old.(*corev1.Pod).UID != o.(*corev1.Pod).UID {
				c.opts.Pods.Deleted(old.(*corev1.Pod).UID)
			}
			c.opts.Pods.Seen(o.(*corev1.Pod))
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*corev1.Pod); ok && ctx.Err() == nil {
				c.opts.Pods.Deleted(p.UID)
			}
		},
	}
}

// sameRoutes says whether routes and rules need nothing new of a node: nodes
// report their status all the time.
func sameRoutes(old, o *corev1.Node) bool {
	return slices.Equal(old.Spec.PodCIDRs, o.Spec.PodCIDRs) && slices.Equal(old.Status.Addresses, o.Status.Addresses)
}

// lean drops what the node never reads of cached objects.
func lean(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}
