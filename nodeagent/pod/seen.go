package pod

import (
	"errors"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/stats"
	"lockstep/nodeagent/volumes"
)

// Update takes in the newest object of the pod and returns the one before.
func (p *Pod) Update(object *corev1.Pod) (old *corev1.Pod) {
	p.change(func() {
		old = p.wanted.Pod
		p.wanted = p.wanted.Take(object)
	})
	return old
}

// End takes in that the API has no such pod.
func (p *Pod) End() { p.change(func() { p.wanted.Gone = true }) }

// Keep keeps the pod's newest object, for an agent that starts without the API.
func (p *Pod) Keep() error {
	p.saving.Lock()
	defer p.saving.Unlock()
	return errors.Join(p.node.Records.savePodAgain(p.Object()), p.node.dropForgotten(p.uid))
}

// Status is a copy of the pod's object with its newest status, or before there is one that of the object; version grows with
// each status. needed is false where nobody is to be told of it any more.
func (p *Pod) Status() (object *corev1.Pod, version int, needed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	object = p.wanted.Pod.DeepCopy()
	if p.version > 0 {
		object.Status = *p.status.DeepCopy()
	}
	return object, p.version, !p.wanted.Gone && !p.deleted
}

// Confirm says that the API has taken a version of the pod's status; revision is that of the object that has it.
func (p *Pod) Confirm(version int, revision int64) {
	p.change(func() { p.confirmed, p.taken = max(p.confirmed, version), max(p.taken, revision) })
}

// StartAnew says that the API's revisions are other ones now, and that what it has been told may be lost: where it has another status
// than the newest, it is told again.
func (p *Pod) StartAnew() { p.change(func() { p.confirmed, p.taken = p.version, 0 }) }

// Addresses are those of a pod's own network; none before there is a sandbox.
func (p *Pod) Addresses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted.Pod.Spec.HostNetwork || p.sandbox.ID == "" {
		return nil
	}
	return slices.Clone(p.sandbox.IPs)
}

// Counts are of the pod's containers that run, and of its steps that wait to be tried again.
func (p *Pod) Counts() (phase corev1.PodPhase, running, failing int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.instances {
		if i.State == pods.Running {
			running++
		}
	}
	return p.status.Phase, running, len(p.failures)
}

// ShimNames are what shims of the pod are named by: containers that have one to
// themselves, and the pod that shares one.
func (p *Pod) ShimNames() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := []string{string(p.uid)}
	for id := range p.instances {
		names = append(names, id)
	}
	return names
}

// Measured is what is to be measured of the pod; false of one without a sandbox.
func (p *Pod) Measured() (stats.Pod, bool) {
	cgroup := p.cgroup()
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.wanted.Pod
	s := stats.Pod{Namespace: o.Namespace, Name: o.Name, UID: o.UID, Cgroup: cgroup, Volumes: map[string]string{}}
	if p.status.StartTime != nil {
		s.StartTime = p.status.StartTime.Time
	}
	if !o.Spec.HostNetwork && p.sandbox.ID != "" {
		s.NetNS = network.NetPath(filepath.Join(p.dir(), "ns"))
	}
	for _, v := range o.Spec.Volumes {
		if m, ok := p.volumes[v.Name]; ok && v.EmptyDir != nil {
			s.Volumes[v.Name] = m.HostPath
		}
	}
	for _, i := range p.instances {
		if i.State == pods.Running {
			s.Containers = append(s.Containers, stats.Container{Name: i.Name, ID: i.ID, Image: i.Image, StartTime: i.StartedAt,
				Cgroup: filepath.Join(s.Cgroup, i.ID), LogDir: filepath.Join(logs.Dir(p.node.LogDir, o.Namespace, o.Name, o.UID), i.Name)})
		}
	}
	return s, p.sandbox.ID != ""
}

// Outside is a volume that a pod has mounted, and that outlives it or is not on the node's disk.
type Outside struct {
	Volume *corev1.Volume // not changed
	volumes.Mounted
}

// Outside are those of the pod.
func (p *Pod) Outside() []Outside {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Outside
	o := p.wanted.Pod
	for i := range o.Spec.Volumes {
		v := &o.Spec.Volumes[i]
		if m, ok := p.volumes[v.Name]; ok && (m.Of != nil || v.CSI != nil || v.NFS != nil) {
			out = append(out, Outside{v, m})
		}
	}
	return out
}
