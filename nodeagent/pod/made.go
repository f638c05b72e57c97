package pod

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/spec"
)

// Made is what was made of a pod, as it is to be until something is done to the pod again.
type Made struct {
	Pod *corev1.Pod
	// Groups are the pod's cgroup, then those of its running containers.
	Groups []Group
}

// Group is a cgroup with its limits.
type Group struct {
	// ID and Name are the container's; empty for the pod's own cgroup.
	ID, Name string
	Cgroup   string
	Limits   *specs.LinuxResources
}

// Made returns what was made of the pod; false while something is being made, changed or ended of it, and where its containers are not
// runc's, whose cgroups others keep.
func (p *Pod) Made() (Made, bool) {
	cgroup, facts := p.cgroup(), p.node.Facts()
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.wanted.Pod
	if p.sandbox.ID == "" || p.sandbox.otherRuntime() || len(p.inflight) > 0 || p.limits == nil || p.wanted.Gone || p.deleted ||
		o.DeletionTimestamp != nil || p.wanted.Resize != nil {
		return Made{}, false
	}
	made := Made{Pod: o, Groups: []Group{{Cgroup: cgroup, Limits: p.limits}}}
	var live []pods.Container
	for _, i := range p.instances {
		c := pods.ContainerOf(o, i.Name)
		if i.State != pods.Running || c == nil || !i.killBy.IsZero() {
			continue
		}
		if i.Resources != nil && !equality.Semantic.DeepEqual(*i.Resources, c.Resources) {
			continue // it keeps what it has until it is restarted
		}
		live = append(live, i.Container)
		made.Groups = append(made.Groups, Group{ID: i.ID, Name: i.Name, Cgroup: filepath.Join(cgroup, i.ID),
			Limits: spec.ContainerLimits(o, c, facts)})
	}
	slices.SortFunc(made.Groups, func(a, b Group) int { return strings.Compare(a.ID, b.ID) })
	return made, !p.unsized(live)
}

// Still says that the pod is as it was made, and nothing has been done to it since.
func (p *Pod) Still(made Made) bool {
	now, ok := p.Made()
	return ok && equality.Semantic.DeepEqual(now.Groups, made.Groups)
}
