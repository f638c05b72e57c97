package nodeagent

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"lockstep/nodeagent/replica"
)

const (
	// syncGrace is how long the kept state waits for the API's: where the API
	// answers, it is newer than what is kept, and the rules that an earlier run
	// left in the kernel may be newer too.
	syncGrace = 500 * time.Millisecond
	// keepFirst is how long changes are collected before the state is kept;
	// keepShare bounds keeping to a part of the time, whatever its size.
	keepFirst = time.Second
	keepShare = 50
)

func (o Options) replicaFile() string { return filepath.Join(o.agentDir(), "cluster") }

// useReplica has proxy, DNS and routes work from the kept state when the API
// does not answer.
func (a *Agent) useReplica(ctx context.Context) error {
	s, err := replica.Load(a.opts.replicaFile())
	if err != nil {
		a.log.Warn("cannot use kept cluster state", "error", err)
	}
	if s == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-a.complete:
		return nil
	case <-time.After(syncGrace):
	}
	c := cachesOf(s)
	a.mu.Lock()
	if a.caches != nil {
		a.mu.Unlock()
		return nil
	}
	a.caches = c
	a.mu.Unlock()
	a.knownOnce.Do(func() { close(a.known) })
	a.log.Info("using kept cluster state until the API answers", "services", len(s.Services), "nodes", len(s.Nodes))
	a.setRoutes(c.nodes)
	a.startNet(ctx)
	return nil
}

// cachesOf are listers of a state that does not change.
func cachesOf(s *replica.State) *caches {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	services, endpoints, nodes, namespaces := index(), index(), index(), index()
	for _, o := range s.Services {
		_ = services.Add(o) // fails only for what has no metadata
	}
	for _, o := range s.Slices {
		_ = endpoints.Add(o)
	}
	for _, o := range s.Nodes {
		_ = nodes.Add(o)
	}
	for _, o := range s.Namespaces {
		_ = namespaces.Add(o)
	}
	return &caches{services: corelisters.NewServiceLister(services), slices: discoverylisters.NewEndpointSliceLister(endpoints),
		nodes: corelisters.NewNodeLister(nodes), namespaces: corelisters.NewNamespaceLister(namespaces)}
}

// keepReplica keeps the state after changes, at a bounded rate, and once more
// when the agent ends.
func (a *Agent) keepReplica(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.complete:
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-a.keepWake:
			pause(ctx, keepFirst)
			began := time.Now()
			a.saveReplica()
			pause(ctx, time.Since(began)*keepShare)
		}
	}
	select {
	case <-a.keepWake:
		a.saveReplica()
	default:
	}
	return nil
}

func (a *Agent) saveReplica() {
	began := time.Now()
	err := replica.Save(a.opts.replicaFile(), a.state())
	a.metrics.keepSeconds.Observe(time.Since(began).Seconds())
	if err != nil {
		a.metrics.keepErrors.Inc()
		a.log.Warn("cannot keep cluster state", "error", err)
	}
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// state is what the caches have.
func (a *Agent) state() replica.State {
	a.mu.Lock()
	c := a.caches
	a.mu.Unlock()
	var s replica.State
	all := labels.Everything()
	s.Services, _ = c.services.List(all) // listers do not fail
	s.Slices, _ = c.slices.List(all)
	s.Nodes, _ = c.nodes.List(all)
	s.Namespaces, _ = c.namespaces.List(all)
	return s
}

// sameRoutes says whether routes and rules need nothing new of a node: nodes
// report their status all the time.
func sameRoutes(old, o *corev1.Node) bool {
	return slices.Equal(old.Spec.PodCIDRs, o.Spec.PodCIDRs) && slices.Equal(old.Status.Addresses, o.Status.Addresses)
}
