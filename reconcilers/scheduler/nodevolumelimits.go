package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// The resources of CSI drivers that rows look at.
const (
	csiDrivers    = "csidrivers"
	csiNodes      = "csinodes"
	csiCapacities = "csistoragecapacities"
	attachments   = "volumeattachments"
)

// tooManyVolumes is why a node cannot have one volume more, as kube-scheduler words it.
const tooManyVolumes = "node(s) exceed max volume count"

// limitKinds are the kinds that a node's limits are read of.
func limitKinds() []schema.GroupResource {
	out := volumeKinds()
	for _, resource := range []string{csiDrivers, csiNodes, attachments} {
		out = append(out, schema.GroupResource{Group: storagev1.GroupName, Resource: resource})
	}
	return out
}

// volumeLimits refuses nodes that would have more volumes of a CSI driver than it says they take, and those without a driver that is to be
// there first.
func volumeLimits() predicate {
	return predicate{
		name: "NodeVolumeLimits", scope: itself, wakes: PodGone | ClaimChanged | VolumeChanged | ClassChanged | ObjectChanged,
		objects:  limitKinds(),
		concerns: func(d *demand) bool { return len(d.volumes.driven) > 0 },
		check:    func(d *demand, n *nodeInfo, c *cluster) bool { return d.limitOn(n, c) == "" },
		ends:     func(*demand, *nodeInfo, *cluster) bool { return true },
		words:    func(d *demand, n *nodeInfo, c *cluster) []string { return []string{d.limitOn(n, c)} },
	}
}

// handle is a volume of a CSI driver. One that is not there yet is known by its claim.
type handle struct{ driver, volume string }

// handleOf is the volume that a claim has, or will have; not ok: it is none of a driver, or nobody knows.
func (c *cluster) handleOf(claim *corev1.PersistentVolumeClaim) (handle, bool) {
	if pv := c.volume(claim.Spec.VolumeName); pv != nil {
		source := kinds.CSIOf(pv)
		if source == nil || source.VolumeHandle == "" {
			return handle{}, false
		}
		return handle{source.Driver, source.VolumeHandle}, true
	}
	class := c.class(volume.GetPersistentVolumeClaimClass(claim))
	if class == nil || class.Provisioner == "" {
		return handle{}, false
	}
	return handle{class.Provisioner, "of " + claim.Namespace + "/" + claim.Name}, true
}

// readHandles notes the volumes of drivers, each once.
func (v *volumes) readHandles(mounts []mount, c *cluster) {
	for _, m := range mounts {
		if claim := c.claim(m.claim); claim != nil {
			if h, ok := c.handleOf(claim); ok && !slices.Contains(v.driven, h) {
				v.driven = append(v.driven, h)
			}
		}
	}
	slices.SortFunc(v.driven, func(a, b handle) int { return strings.Compare(a.driver+" "+a.volume, b.driver+" "+b.volume) })
}

// limitOn says why a node cannot have the demand's volumes; empty: it can.
func (d *demand) limitOn(n *nodeInfo, c *cluster) string {
	o, _ := c.objects[kinds.Key{Group: storagev1.GroupName, Resource: csiNodes, Name: n.name}].(*storagev1.CSINode)
	limits, installed := map[string]int{}, map[string]bool{}
	if o != nil {
		for _, driver := range o.Spec.Drivers {
			installed[driver.Name] = true
			if driver.Allocatable != nil && driver.Allocatable.Count != nil {
				limits[driver.Name] = int(*driver.Allocatable.Count)
			}
		}
	}
	for _, h := range d.volumes.driven {
		if !installed[h.driver] && c.needsDriver(h.driver) {
			return fmt.Sprintf("%s CSI driver is not installed on the node", h.driver)
		}
	}
	if len(limits) == 0 {
		return ""
	}
	has := c.volumesOn(n)
	more, used := map[string]int{}, map[string]int{}
	for _, h := range d.volumes.driven {
		if !has[h] {
			more[h.driver]++
		}
	}
	for h := range has {
		used[h.driver]++
	}
	// What is attached though no pod here mounts it takes its place all the same.
	for h := range c.attachedTo(n.name) {
		if !has[h] {
			used[h.driver]++
		}
	}
	for driver, count := range more {
		if limit, limited := limits[driver]; limited && used[driver]+count > limit {
			return tooManyVolumes
		}
	}
	return ""
}

// needsDriver says that pods with volumes of a driver go only where that is.
func (c *cluster) needsDriver(name string) bool {
	o, _ := c.objects[kinds.Key{Group: storagev1.GroupName, Resource: csiDrivers, Name: name}].(*storagev1.CSIDriver)
	return o != nil && o.Spec.PreventPodSchedulingIfMissing != nil && *o.Spec.PreventPodSchedulingIfMissing
}

// volumesOn are the volumes of drivers that pods on a node mount.
func (c *cluster) volumesOn(n *nodeInfo) map[handle]bool {
	out := map[handle]bool{}
	for key := range n.mounts {
		if claim := c.claim(key); claim != nil {
			if h, ok := c.handleOf(claim); ok {
				out[h] = true
			}
		}
	}
	return out
}

// attachedTo are the volumes of drivers that are attached to a node, or are to be.
func (c *cluster) attachedTo(node string) map[handle]bool {
	if c.attached == nil {
		c.attached = map[string]map[handle]bool{}
		for _, o := range c.objects {
			a, ok := o.(*storagev1.VolumeAttachment)
			if !ok {
				continue
			}
			source := kinds.CSIOf(c.volume(kinds.AttachedVolume(a)))
			if source == nil {
				continue
			}
			if c.attached[a.Spec.NodeName] == nil {
				c.attached[a.Spec.NodeName] = map[handle]bool{}
			}
			c.attached[a.Spec.NodeName][handle{a.Spec.Attacher, source.VolumeHandle}] = true
		}
	}
	return c.attached[node]
}
