package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/content"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/pod"
)

// newHost returns the node that pods run on, with what the agent works with as it is now.
func (a *Agent) newHost() *pod.Node {
	return pod.NewNode(pod.Options{
		Machine: machine.New(machine.Options{
			Runtime: a.rt, Remains: a.opts.remains(), Network: a.net, Volumes: a.volumes, Logs: a.logs, Probes: a.probes,
			Events: a.events, Devices: a.devices, Images: a.images, Imported: a.imported, Added: func() { poke(a.imagesWake) }, Log: a.log,
		}),
		Cluster: clusterOf{a.content, a}, Owner: owner{a}, Records: a.records, Users: a.users,
		RunDir: a.opts.RunDir, LogDir: a.opts.LogDir, SeccompDir: filepath.Join(a.opts.DataDir, "seccomp"),
		Cgroup: machine.Cgroup(a.opts.NodeName),
		Names:  a.namesAt, Facts: a.nodeFacts, HostIPs: a.hostIPs, Metrics: a.metrics.pods, Log: a.log,
	})
}

// clusterOf is the cluster as an agent knows it.
type clusterOf struct {
	*content.Store
	agent *Agent
}

// Latest implements pod.Cluster.
func (c clusterOf) Latest() pod.Content { return c.Store.Latest() }

// Token implements pod.Cluster.
func (c clusterOf) Token(ctx context.Context, o *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return c.agent.tokens.Get(ctx, o, p)
}

// servicesWait bounds how long a container waits for the services that its
// environment names, with neither the API nor a kept state it starts without,
// and a volume for the node's labels.
const servicesWait = 10 * time.Second

// Services implements pod.Cluster.
func (c clusterOf) Services(ctx context.Context, namespace string) []*corev1.Service {
	select {
	case <-c.agent.cluster.Known():
	case <-ctx.Done():
	case <-time.After(servicesWait):
	}
	if s := c.agent.cluster.Snapshot(); s != nil {
		return s.ServicesOf(namespace)
	}
	return nil
}

// NodeLabels implements pod.Cluster.
func (c clusterOf) NodeLabels(ctx context.Context) (map[string]string, error) {
	select {
	case <-c.agent.cluster.Known():
	case <-ctx.Done():
	case <-time.After(servicesWait):
	}
	if s := c.agent.cluster.Snapshot(); s != nil {
		if node := s.Node(c.agent.opts.NodeName); node != nil {
			return node.Labels, nil
		}
	}
	return nil, fmt.Errorf("cannot read the labels of node %s: they are not known yet", c.agent.opts.NodeName)
}

// Delete implements pod.Cluster.
func (c clusterOf) Delete(ctx context.Context, o *corev1.Pod) error {
	api := c.agent.api()
	if api == nil {
		return errors.New("cannot delete pod: not connected to the API")
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	zero, pods := int64(0), api.CoreV1().Pods(o.Namespace)
	err := pods.Delete(ctx, o.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &o.UID}})
	if apierrors.IsConflict(err) { // another pod has its name, or it was being changed
		if now, getErr := pods.Get(ctx, o.Name, metav1.GetOptions{}); apierrors.IsNotFound(getErr) || getErr == nil && now.UID != o.UID {
			return nil
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot delete pod %s/%s: %w", o.Namespace, o.Name, err)
	}
	return nil
}

// owner is an agent as the pods see it whose loops it runs.
type owner struct{ *Agent }

// Claim implements pod.Owner.
func (o owner) Claim(id string, p *pod.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims[id] = p
}

// Unclaim implements pod.Owner.
func (o owner) Unclaim(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.claims, id)
}

// Report implements pod.Owner.
func (o owner) Report(p *pod.Pod, urgent bool) { o.statuses.add(p, urgent) }

// Refresh implements pod.Owner.
func (o owner) Refresh(uid types.UID) { o.contentDue(uid) }

// Knows implements pod.Owner.
func (o owner) Knows(uid types.UID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pods[uid] != nil
}

// Forget implements pod.Owner.
func (o owner) Forget(p *pod.Pod) {
	o.mu.Lock()
	delete(o.pods, p.UID())
	delete(o.lost, p.UID())
	o.mu.Unlock()
	o.statuses.drop(p.UID())
	o.probes.Remove(p.UID())
	if err := o.records.DropPod(p.UID()); err != nil {
		p.Log().Warn("cannot forget pod", "error", err)
	}
	o.cluster.Wake()   // its host ports are free
	poke(o.resizeWake) // what it took is free
	poke(o.tiersWake)
}
