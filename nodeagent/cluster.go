package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"lockstep/internal/whole"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/tunnel"
)

const (
	// joinRetry is the longest pause between attempts to join; the first is a tenth, for a server that is just starting.
	joinRetry = time.Second
	// joinPatience is how long a failure to join is not worth a warning: a server that starts is ready within it.
	joinPatience = 3 * time.Second
	renewCheck   = time.Hour // certificates last for months
	renewRetry   = time.Second
	podCIDRsFile = "pod-cidrs"
	// historyHeader of an answer names the history that the API's revisions are of.
	historyHeader = "Lockstep-History"
)

// caches are the agent's own copy of what it needs of the cluster.
type caches struct {
	services   corelisters.ServiceLister
	slices     discoverylisters.EndpointSliceLister
	nodes      corelisters.NodeLister
	namespaces corelisters.NamespaceLister
}

// joinCluster joins, then keeps what needs the API running until ctx ends. A
// refused token is an error; a server that does not answer is waited for.
func (a *Agent) joinCluster(ctx context.Context) error {
	id := a.identity()
	if err := a.join(ctx, id); err != nil {
		return err
	}
	link, err := id.Link()
	if err != nil {
		return err
	}
	link.Heard = a.heard
	if _, told, _ := a.opts.keptSettings(); told || len(a.allPods()) > 0 { // it goes on, and is told when there is somebody to tell it
		a.begin([]task{{"settings", func(ctx context.Context) error { return a.learnSettings(ctx, link) }}})
	} else if err := a.learnSettings(ctx, link); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(link.Config())
	if err != nil {
		return fmt.Errorf("cannot make client for %s: %w", a.opts.Server, err)
	}
	a.mu.Lock()
	a.client = client
	a.mu.Unlock()
	a.statuses.nudge()
	for _, p := range a.allPods() {
		p.Poke()
	}
	poke(a.contentWake)
	close(a.connected)
	conf, err := id.TLS()
	if err != nil {
		return err
	}
	u, err := url.Parse(a.opts.Server)
	if err != nil {
		return fmt.Errorf("cannot use server %q: %w", a.opts.Server, err)
	}
	a.begin(a.joinedTasks(client, id, link, tunnel.Dialer(u.Host, conf)))
	return nil
}

func (a *Agent) identity() register.Identity {
	return register.Identity{Server: strings.TrimSuffix(a.opts.Server, "/"), Node: a.opts.NodeName, Dir: a.opts.agentDir()}
}

// Joined says that the node has a certificate that holds: it needs no token.
func Joined(o Options) bool {
	o, err := o.withDefaults()
	return err == nil && (&Agent{opts: o}).identity().Joined(time.Now())
}

// join gets a certificate unless there is one.
func (a *Agent) join(ctx context.Context, id register.Identity) error {
	begun, told, pause := time.Now(), false, joinRetry/10
	for !id.Joined(time.Now()) {
		token := a.opts.Token
		if token == "" && a.opts.TokenFile != "" {
			data, err := os.ReadFile(a.opts.TokenFile)
			if err != nil {
				return fmt.Errorf("cannot read token: %w", err)
			}
			token = string(data)
		}
		if token == "" {
			return fmt.Errorf("cannot join %s: a token is needed", id.Server)
		}
		err := id.Join(ctx, token)
		switch {
		case err == nil:
			a.log.Info("joined cluster", "server", id.Server)
			return nil
		case errors.Is(err, register.ErrRefused), errors.Is(err, register.ErrToken):
			return err
		case !told && ctx.Err() == nil && time.Since(begun) > joinPatience:
			a.log.Warn("cannot join yet", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			pause = min(2*pause, joinRetry)
		}
	}
	return nil
}

// renewCertificate replaces the node's certificate long before it expires. One
// that expired while no server answered is bought anew, if there is a token.
func (a *Agent) renewCertificate(ctx context.Context, id register.Identity, link *register.Link) error {
	for ctx.Err() == nil {
		c, err := id.Certificate()
		if err != nil {
			a.log.Warn("cannot read own certificate", "error", err)
			pause(ctx, renewRetry)
			continue
		}
		if due := time.Until(register.RenewAt(c)); due > 0 {
			pause(ctx, min(due, renewCheck)) // the clock may be set meanwhile
			continue
		}
		if id.Joined(time.Now()) {
			err = id.Renew(ctx)
		} else {
			err = a.join(ctx, id)
		}
		a.metrics.report("certificate", time.Now(), err)
		if err == nil {
			link.Reset()
		} else if ctx.Err() == nil {
			a.log.Warn("cannot renew certificate", "error", err, "expires", c.NotAfter)
		}
		if c, err = id.Certificate(); err == nil {
			pause(ctx, min(max(time.Until(c.NotAfter)/3, renewRetry), renewCheck))
		}
	}
	return nil
}

// follow keeps the caches and the pods of this node up to date until ctx ends. It starts with nothing whenever the cluster
// has another history.
func (a *Agent) follow(ctx context.Context, client kubernetes.Interface) error {
	for ctx.Err() == nil {
		run, stop := context.WithCancel(ctx)
		a.mu.Lock()
		a.stopFollowing = stop
		a.mu.Unlock()
		err := a.followHistory(run, client)
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// followHistory returns when ctx ends and everything it started has.
func (a *Agent) followHistory(ctx context.Context, client kubernetes.Interface) error {
	all := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(lean))
	mine := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", corev1.NamespaceAll,
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.opts.NodeName).String()
		})
	podCache := cache.NewSharedInformer(mine, &corev1.Pod{}, 0)
	if err := podCache.SetTransform(lean); err != nil {
		return err
	}
	c := &caches{services: all.Core().V1().Services().Lister(), slices: all.Discovery().V1().EndpointSlices().Lister(),
		nodes: all.Core().V1().Nodes().Lister(), namespaces: all.Core().V1().Namespaces().Lister()}
	changed := func() {
		a.wakeNet()
		poke(a.keepWake)
	}
	wake := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(_, _ any) { changed() }, DeleteFunc: func(any) { changed() },
	}
	nodes := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { a.nodeChanged(o, c.nodes) },
		UpdateFunc: func(old, o any) {
			if n := o.(*corev1.Node); n.Name == a.opts.NodeName || !sameRoutes(old.(*corev1.Node), n) {
				a.nodeChanged(o, c.nodes)
			}
		},
		DeleteFunc: func(o any) { a.nodeChanged(o, c.nodes) },
	}
	var synced []cache.InformerSynced
	for _, s := range []struct {
		informer cache.SharedInformer
		handler  cache.ResourceEventHandler
	}{
		{all.Core().V1().Services().Informer(), wake}, {all.Discovery().V1().EndpointSlices().Informer(), wake},
		{all.Core().V1().Namespaces().Informer(), wake}, {all.Core().V1().Nodes().Informer(), nodes}, {podCache, a.podHandler(ctx)},
	} {
		r, err := s.informer.AddEventHandler(s.handler)
		if err != nil {
			return fmt.Errorf("cannot follow cluster: %w", err)
		}
		synced = append(synced, r.HasSynced)
	}
	all.Start(ctx.Done())
	var pods sync.WaitGroup
	pods.Go(func() { podCache.Run(ctx.Done()) })
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		a.synced(a.ctx, c, podCache.GetStore())
	}
	<-ctx.Done()
	pods.Wait()
	all.Shutdown()
	return nil
}

// synced is called when the caches are complete: pods that the API does not
// have end, and what needs a complete picture starts.
func (a *Agent) synced(ctx context.Context, c *caches, store cache.Store) {
	a.mu.Lock()
	a.caches, a.synchronised = c, true
	a.mu.Unlock()
	a.knownOnce.Do(func() { close(a.known) })
	a.completeOnce.Do(func() { close(a.complete) })
	a.setRoutes(c.nodes)
	a.wakeNet()
	have := map[types.UID]bool{}
	for _, o := range store.List() {
		have[o.(*corev1.Pod).UID] = true
	}
	for _, p := range a.allPods() {
		if !have[p.UID()] {
			a.podDeleted(p.UID())
		}
	}
	a.relistLogged(ctx)
	a.startNet(ctx)
}

// podHandler takes in what an informer tells until ctx ends: what comes later is of a history that has ended.
func (a *Agent) podHandler(ctx context.Context) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if ctx.Err() == nil {
				a.podSeen(o.(*corev1.Pod))
			}
		},
		UpdateFunc: func(old, o any) {
			if ctx.Err() != nil {
				return
			}
			if old.(*corev1.Pod).UID != o.(*corev1.Pod).UID {
				a.podDeleted(old.(*corev1.Pod).UID)
			}
			a.podSeen(o.(*corev1.Pod))
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*corev1.Pod); ok && ctx.Err() == nil {
				a.podDeleted(p.UID)
			}
		},
	}
}

// podSeen takes in the newest object of a pod of this node.
func (a *Agent) podSeen(o *corev1.Pod) {
	a.found(o.UID)
	a.mu.Lock()
	p := a.pods[o.UID]
	a.mu.Unlock()
	if p == nil {
		p = a.host.New(o)
		if !pods.Admitted(o) {
			if reason, message := a.admit(o); reason != "" {
				p = a.host.Refused(o, reason, message)
			}
		}
		if err := a.records.SavePod(o); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
		a.mu.Lock()
		a.pods[o.UID] = p
		a.mu.Unlock()
		a.runPod(p)
		poke(a.contentWake) // what it refers to is watched
		return
	}
	old := p.Update(o)
	if pods.Relabelled(old, o) {
		a.contentDue(o.UID)
	}
	if pods.KeepAgain(old, o) {
		if err := p.Keep(); err != nil {
			p.Log().Warn("cannot keep pod", "error", err)
		}
	}
}

// admit says why the node cannot take the pod beside those it has. Those of a lost history give way.
func (a *Agent) admit(o *corev1.Pod) (reason, message string) {
	if reason, message = spec.Unfit(a.nodeFacts(), o); reason != "" {
		return reason, message
	}
	var others []pods.Wanted
	for _, p := range a.allPods() {
		if !a.isLost(p.UID()) {
			others = append(others, p.Wanted())
		}
	}
	return pods.Admit(a.nodeFacts().Allocatable, others, o)
}

// podDeleted takes in that the API has no such pod. A lost history's pods it cannot have.
func (a *Agent) podDeleted(uid types.UID) {
	if !a.isLost(uid) {
		a.podGone(uid)
	}
}

func (a *Agent) podGone(uid types.UID) {
	a.mu.Lock()
	p := a.pods[uid]
	a.mu.Unlock()
	if p != nil {
		p.End()
	}
}

// servicesWait bounds how long a container waits for the services that its
// environment names: with neither the API nor a kept state it starts without.
const servicesWait = 10 * time.Second

// waitForServices waits until services are known, from the API or the disk.
func (a *Agent) waitForServices(ctx context.Context) {
	select {
	case <-a.known:
	case <-ctx.Done():
	case <-time.After(servicesWait):
	}
}

// services are those whose variables pods of a namespace see.
func (a *Agent) services(namespace string) []*corev1.Service {
	a.mu.Lock()
	c := a.caches
	a.mu.Unlock()
	if c == nil {
		return nil
	}
	out, _ := c.services.Services(namespace).List(labels.Everything()) // a lister does not fail
	if master, err := c.services.Services("default").Get("kubernetes"); err == nil && namespace != "default" {
		out = append(out, master)
	}
	return out
}

// nodeChanged sets up the network for this node's pods, or routes to others'.
func (a *Agent) nodeChanged(o any, nodes corelisters.NodeLister) {
	if n, ok := o.(*corev1.Node); ok && n.Name == a.opts.NodeName && len(n.Spec.PodCIDRs) > 0 {
		a.configureNetwork(n.Spec.PodCIDRs, true)
	}
	select {
	case <-a.complete:
		a.setRoutes(nodes)
	default: // an incomplete list would remove routes that an earlier run set
	}
	a.wakeNet()
	poke(a.keepWake)
}

func (a *Agent) setRoutes(nodes corelisters.NodeLister) {
	list, _ := nodes.List(labels.Everything()) // a lister does not fail
	a.routing.Lock()
	defer a.routing.Unlock()
	if err := network.SetRoutes(routesTo(list, a.opts.NodeName)); err != nil {
		a.log.Warn("cannot set all routes", "error", err)
	}
}

// routesTo are the routes to the pods of all nodes but self.
func routesTo(nodes []*corev1.Node, self string) network.Routes {
	out := network.Routes{}
	for _, n := range nodes {
		if n.Name == self {
			continue
		}
		for _, cidr := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(cidr)
			if err != nil {
				continue
			}
			for _, addr := range n.Status.Addresses {
				ip, err := netip.ParseAddr(addr.Address)
				if err == nil && addr.Type == corev1.NodeInternalIP && ip.Is4() == p.Addr().Is4() {
					out[p.Masked()] = ip
					break
				}
			}
		}
	}
	return out
}

// configureNetwork makes pod addresses available and wakes those who wait for
// them. keep stores the ranges for a start without the API.
func (a *Agent) configureNetwork(cidrs []string, keep bool) {
	err := a.net.Configure(cidrs)
	why := ""
	if err != nil {
		why = err.Error()
	} else if keep {
		if err := whole.Write(filepath.Join(a.opts.agentDir(), podCIDRsFile), []byte(strings.Join(cidrs, "\n"))); err != nil {
			a.log.Warn("cannot keep pod ranges", "error", err)
		}
	}
	a.mu.Lock()
	changed := a.noNetwork != why
	a.noNetwork = why
	a.mu.Unlock()
	if !changed {
		return
	}
	a.reportNode()
	for _, p := range a.allPods() {
		p.Hear(pods.NetworkChanged)
	}
}

// restoreNetwork takes up the ranges of an earlier run, or the user's own network.
func (a *Agent) restoreNetwork() {
	data, _ := os.ReadFile(filepath.Join(a.opts.agentDir(), podCIDRsFile)) // absent on a new node
	cidrs := slices.DeleteFunc(strings.Split(string(data), "\n"), func(s string) bool { return s == "" })
	if len(cidrs) > 0 || a.opts.CNIConfDir != "" {
		a.configureNetwork(cidrs, false)
	}
}

// nodeState is what the node reports about itself.
func (a *Agent) nodeState(context.Context) register.State {
	left, err := register.ReadLeft(a.facts.Memory, a.opts.DataDir, a.imageDir)
	if err != nil {
		a.log.Warn("cannot measure the node", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var now register.Pressures
	if err == nil {
		now = a.pressure.Note(left.Crossed(), time.Now())
	}
	s := register.State{MemoryPressure: now.Memory, DiskPressure: now.Disk, PIDPressure: now.PID, Images: a.nodeImages,
		Facts: a.facts, Addresses: a.ips, Version: a.opts.Version, NoNetwork: a.noNetwork}
	if a.down != "" {
		s.NotReady = []string{a.down}
	}
	a.reportVitals(&s, time.Now())
	return s
}

// lean drops what the agent never reads of cached objects.
func lean(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}
