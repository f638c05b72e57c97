package hollow

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/userns"
)

// Node runs the loops of pods on a hollow machine, beside a cluster that takes every status at once.
type Node struct {
	Machine *Machine
	host    *pod.Node
	wake    chan struct{} // of Run; capacity 1: a wake-up carries no data

	mu       sync.Mutex
	begun    []*pod.Pod // whose loop is to be started
	pods     map[types.UID]*pod.Pod
	claims   map[string]*pod.Pod
	due      map[types.UID]*pod.Pod      // whose status is to be written
	ended    []string                    // containers that have ended
	unbound  map[types.UID]time.Duration // pods to be deleted, with their grace periods
	content  map[pods.Reference]metav1.Object
	statuses map[types.UID]corev1.PodStatus
	others   []func() // what others do in the cluster
	revision int      // of the newest pod
	found    drift.Log
}

// NewNode returns a node that keeps its records in a directory. A machine that had another node before goes on with its
// containers; nil is a new machine.
func NewNode(dir string, machine *Machine, log *slog.Logger) *Node {
	n := &Node{wake: make(chan struct{}, 1), pods: map[types.UID]*pod.Pod{}, claims: map[string]*pod.Pod{}, due: map[types.UID]*pod.Pod{},
		unbound: map[types.UID]time.Duration{}, content: map[pods.Reference]metav1.Object{}, statuses: map[types.UID]corev1.PodStatus{}}
	if machine == nil {
		machine = NewMachine(dir, nil)
	}
	machine.ended = func(id string) { n.later(func() { n.ended = append(n.ended, id) }) }
	n.Machine = machine
	n.host = pod.NewNode(pod.Options{
		Machine: machine.Parts(), Cluster: cluster{n}, Owner: owner{n}, Records: pod.Records{Dir: filepath.Join(dir, "records")},
		Users:  &userns.Ranges{Dir: filepath.Join(dir, "records"), Available: userns.Default()},
		RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "logs"), SeccompDir: filepath.Join(dir, "seccomp"), Cgroup: "/hollow",
		Names: func() ([]netip.Addr, string) { return settings.Default().DNS(), settings.Default().Domain },
		Facts: func() spec.Node {
			return spec.Node{MaxOpenFiles: 1 << 20, OOMFloor: -1000, Runtimes: map[string]string{"sandboxed": "io.containerd.sandboxed.v1"}}
		},
		HostIPs: func() []string { return []string{"192.0.2.1"} },
		Metrics: pod.NewMetrics(prometheus.NewRegistry()), Log: log,
	})
	return n
}

// later runs f with the node's state locked, and has Run look at it.
func (n *Node) later(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run runs the pods' loops until ctx ends, and leaves what they have made.
func (n *Node) Run(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		n.mu.Lock()
		begun, due, ended, unbound, others := n.begun, n.due, n.ended, n.unbound, n.others
		n.begun, n.due, n.ended, n.unbound = nil, map[types.UID]*pod.Pod{}, nil, map[types.UID]time.Duration{}
		n.others = nil
		claims := maps.Clone(n.claims)
		n.mu.Unlock()
		for _, p := range begun {
			loops.Go(func() { p.Run(ctx) })
		}
		for _, id := range ended {
			if p := claims[id]; p != nil {
				if err := p.Settle(ctx, id); err != nil {
					p.Log().Warn("cannot learn how container ended", "container", id, "error", err)
				}
			}
		}
		for _, p := range due {
			object, version, needed := p.Status()
			if !needed {
				continue
			}
			p.Confirm(version, n.take(p, object))
		}
		for _, write := range others {
			write()
		}
		for uid, grace := range unbound {
			if p := n.Pod(uid); p != nil {
				o := p.Object().DeepCopy()
				seconds, at := int64(grace/time.Second), metav1.NewTime(time.Now().Add(grace))
				o.DeletionGracePeriodSeconds, o.DeletionTimestamp = &seconds, &at
				p.Update(o)
			}
		}
	}
}

// take has the cluster take a pod as it is now, and the pod learn of it; it returns the revision.
func (n *Node) take(p *pod.Pod, o *corev1.Pod) int64 {
	n.mu.Lock()
	n.revision++
	o.ResourceVersion = strconv.Itoa(n.revision)
	n.statuses[o.UID] = o.Status
	n.mu.Unlock()
	p.Update(o)
	return kinds.Revision(o)
}

// Drift is what differed of the pods though nobody asked for it, the newest first.
func (n *Node) Drift() []drift.Finding {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.found.Findings)
}

// Overrule has somebody else change a pod's status in the cluster; it returns when the pod has learned of it.
func (n *Node) Overrule(uid types.UID, change func(*corev1.PodStatus)) {
	done := make(chan struct{})
	n.later(func() {
		n.others = append(n.others, func() {
			defer close(done)
			if p := n.Pod(uid); p != nil {
				o := p.Object().DeepCopy()
				change(&o.Status)
				n.take(p, o)
			}
		})
	})
	<-done
}

// Bind has the node run a pod.
func (n *Node) Bind(o *corev1.Pod) { n.add(n.host.New(o)) }

// Restore takes up the pods of the node that had the directory before.
func (n *Node) Restore() error {
	kept, err := n.host.Records.LoadPods()
	for _, o := range kept {
		n.add(n.host.Restore(o))
	}
	return err
}

func (n *Node) add(p *pod.Pod) {
	n.later(func() { n.pods[p.UID()] = p })
	if err := p.Keep(); err != nil {
		p.Log().Warn("cannot keep pod", "error", err)
	}
	n.later(func() { n.begun = append(n.begun, p) })
}

// Unbind deletes a pod as a user of the cluster does.
func (n *Node) Unbind(uid types.UID, grace time.Duration) {
	n.later(func() { n.unbound[uid] = grace })
}

// Pod is one of the node's; nil if nothing is left of it.
func (n *Node) Pod(uid types.UID) *pod.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[uid]
}

// Status is what the cluster has of a pod: what the node told last, unless somebody overruled it.
func (n *Node) Status(uid types.UID) corev1.PodStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses[uid]
}

// Ready is how many of the node's pods are ready, and how many there are.
func (n *Node) Ready() (ready, all int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid := range n.pods {
		if s := n.statuses[uid]; podstatus.Ready(&s) {
			ready++
		}
	}
	return ready, len(n.pods)
}

// Put has the cluster have a ConfigMap, Secret, RuntimeClass, claim or volume, and tells all pods.
func (n *Node) Put(o metav1.Object) {
	resource := pods.ConfigMaps
	switch o.(type) {
	case *corev1.Secret:
		resource = pods.Secrets
	case *nodev1.RuntimeClass:
		resource = pods.RuntimeClasses
	case *corev1.PersistentVolumeClaim:
		resource = pods.PersistentVolumeClaims
	case *corev1.PersistentVolume:
		resource = pods.PersistentVolumes
	}
	ref := pods.Reference{Resource: resource, Namespace: o.GetNamespace(), Name: o.GetName()}
	n.mu.Lock()
	n.content[ref] = o
	all := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	for _, p := range all {
		p.Hear(pods.ContentNews(p.Object(), ref))
	}
}

// cluster is what the node was told of one.
type cluster struct{ *Node }

func (c cluster) get(ref pods.Reference) (metav1.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.content[ref]
	if o == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: string(ref.Resource)}, ref.Name)
	}
	return o, nil
}

func (c cluster) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o, err := c.get(pods.Reference{Resource: pods.ConfigMaps, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.ConfigMap), nil
}

func (c cluster) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	o, err := c.get(pods.Reference{Resource: pods.Secrets, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Secret), nil
}

func (c cluster) RuntimeClass(_ context.Context, name string) (*nodev1.RuntimeClass, error) {
	o, err := c.get(pods.Reference{Resource: pods.RuntimeClasses, Name: name})
	if err != nil {
		return nil, err
	}
	return o.(*nodev1.RuntimeClass), nil
}

func (c cluster) PersistentVolumeClaim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	o, err := c.get(pods.Reference{Resource: pods.PersistentVolumeClaims, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.PersistentVolumeClaim), nil
}

func (c cluster) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	o, err := c.get(pods.Reference{Resource: pods.PersistentVolumes, Name: name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.PersistentVolume), nil
}

func (cluster) NodeLabels(context.Context) (map[string]string, error) {
	return map[string]string{corev1.LabelHostname: "hollow"}, nil
}

func (c cluster) Latest() pod.Content { return c }

// Token implements pod.Cluster: on a hollow node nobody shows it to anybody.
func (cluster) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) {
	return "hollow", nil
}

func (cluster) Services(context.Context, string) []*corev1.Service { return nil }

func (c cluster) Delete(_ context.Context, o *corev1.Pod) error {
	c.mu.Lock()
	p := c.pods[o.UID]
	delete(c.statuses, o.UID)
	c.mu.Unlock()
	if p != nil {
		p.End()
	}
	return nil
}

// owner is the node as its pods see it.
type owner struct{ *Node }

func (o owner) Claim(id string, p *pod.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims[id] = p
}

func (o owner) Unclaim(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.claims, id)
}

func (o owner) Report(p *pod.Pod, _ bool) { o.later(func() { o.due[p.UID()] = p }) }

func (o owner) Found(f drift.Finding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.found, _ = o.found.Add([]drift.Finding{f}, 0)
}

func (owner) Refresh(types.UID) {}

func (o owner) Knows(uid types.UID) bool { return o.Pod(uid) != nil }

func (o owner) Forget(p *pod.Pod) {
	o.mu.Lock()
	delete(o.pods, p.UID())
	o.mu.Unlock()
	if err := o.host.Records.DropPod(p.UID()); err != nil {
		p.Log().Warn("cannot forget pod", "error", err)
	}
}
