package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
)

// Why a node is no place for a pod's volumes, as kube-scheduler words it.
const (
	volumeElsewhere = "node(s) didn't match PersistentVolume's node affinity"
	noVolumeToBind  = "node(s) didn't find available persistent volumes to bind"
	noRoomForVolume = "node(s) did not have enough free storage"
	volumeMissing   = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
)

// volumesInReach refuses nodes that the volumes of the pod's claims cannot be reached from, and those where claims that wait for their
// first pod would get none. What is given to claims of the pods placed before is taken.
func volumesInReach() predicate {
	return predicate{
		name: "VolumeBinding", scope: itself, wakes: NodeLabels | VolumeChanged | ClassChanged | ObjectChanged, objects: bindingKinds(),
		concerns: func(d *demand) bool { return len(d.volumes.bound)+len(d.volumes.late) > 0 || d.volumes.missing },
		check:    func(d *demand, n *nodeInfo, c *cluster) bool { return len(d.volumesOn(n, c).reasons) == 0 },
		words:    func(d *demand, n *nodeInfo, c *cluster) []string { return d.volumesOn(n, c).reasons },
	}
}

// bindingKinds are the kinds that say where volumes are, and where there is room for more.
func bindingKinds() []schema.GroupResource {
	return append(volumeKinds(), schema.GroupResource{Group: storagev1.GroupName, Resource: csiDrivers},
		schema.GroupResource{Group: storagev1.GroupName, Resource: csiCapacities})
}

// placing is where a volume can be reached from.
type placing struct {
	nodes *nodeaffinity.LazyErrorNodeSelector
}

func (p placing) has(n *nodeInfo) bool {
	// Volumes are placed by labels, not by the fields of nodes.
	ok, err := p.nodes.Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: n.node.Labels}})
	return ok && err == nil
}

// late is a claim that gets its volume where its first pod goes.
type late struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	node  string // the one chosen before; empty: none, or it is no more
	// settled says that the choice has been made, of the node or of the volume.
	settled bool
	given   []*corev1.PersistentVolume // those that name it already
	shelf   *shelf                     // of its class
}

// shelf is the volumes of a class that are free: those that name in their affinity the hosts that they are on by these, and others.
type shelf struct {
	anywhere []*corev1.PersistentVolume
	byHost   map[string][]*corev1.PersistentVolume
	named    map[kinds.Key][]*corev1.PersistentVolume // those that are not, by the claims that they name
}

// given is a volume for a claim.
type given struct {
	claim *corev1.PersistentVolumeClaim
	pv    *corev1.PersistentVolume
}

// reach is what becomes of a pod's volumes on a node.
type reach struct {
	reasons []string // why it is no place for them; else
	given   []given  // those that there are
	made    []*corev1.PersistentVolumeClaim
	rooms   []*storagev1.CSIStorageCapacity // by made, where they are made; nil: nobody knows
}

// readClaims fails where no node can take the pod until something is done about one of its claims.
func (v *volumes) readClaims(mounts []mount, c *cluster) error {
	for _, m := range mounts {
		if err := m.usable(c.claim(m.claim)); err != nil {
			return err
		}
	}
	unbound := false
	for _, m := range mounts {
		claim := c.claim(m.claim)
		class := c.class(volume.GetPersistentVolumeClaimClass(claim))
		switch {
		case fullyBound(claim):
			v.readBound(c.volume(claim.Spec.VolumeName))
		case kinds.BindsLate(class) && claim.Spec.VolumeName == "":
			one, err := c.late(claim, class)
			if err != nil {
				return err
			}
			v.late = append(v.late, one)
		default:
			unbound = true
		}
	}
	if unbound {
		return barred(ClassChanged, "pod has unbound immediate PersistentVolumeClaims")
	}
	slices.SortStableFunc(v.late, func(a, b late) int {
		x, y := a.claim.Spec.Resources.Requests[corev1.ResourceStorage], b.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	return nil
}

// usable fails where a claim is none that a pod can mount.
func (m *mount) usable(claim *corev1.PersistentVolumeClaim) error {
	switch {
	case claim == nil && m.ephemeral():
		return barred(0, "waiting for ephemeral volume controller to create the persistentvolumeclaim %q", m.claim.Name)
	case claim == nil:
		return barred(0, "persistentvolumeclaim %q not found", m.claim.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return barred(0, "persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return barred(0, "persistentvolumeclaim %q is being deleted", claim.Name)
	}
	if m.ephemeral() {
		if ref := metav1.GetControllerOfNoCopy(claim); ref == nil || ref.UID != m.uid {
			return barred(0, "PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name,
				m.pod.Namespace, m.pod.Name)
		}
	}
	return nil
}

func (v *volumes) readBound(pv *corev1.PersistentVolume) {
	switch {
	case pv == nil:
		v.missing = true
	case pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil:
		v.bound = append(v.bound, placing{nodeaffinity.NewLazyErrorNodeSelector(pv.Spec.NodeAffinity.Required)})
	}
}

// late fails where the claim's selector cannot be understood.
func (c *cluster) late(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (late, error) {
	l := late{claim: claim, class: class}
	if name := claim.Annotations[volume.AnnSelectedNode]; c.listed(name) {
		l.node, l.settled = name, true
		return l, nil
	}
	if _, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector); err != nil {
		return l, fmt.Errorf("cannot read the selector of %v: %w", kinds.KeyOf(claim), err)
	}
	l.shelf = c.shelf(class.Name)
	for _, pv := range l.shelf.named[kinds.KeyOf(claim)] {
		if volume.IsVolumeBoundToClaim(pv, claim) {
			l.given, l.settled = append(l.given, pv), true
		}
	}
	return l, nil
}

// shelf returns the volumes of a class.
func (c *cluster) shelf(class string) *shelf {
	if c.shelves == nil {
		c.shelves = map[string]*shelf{}
		var all []*corev1.PersistentVolume
		for _, o := range c.objects {
			if pv, ok := o.(*corev1.PersistentVolume); ok {
				all = append(all, pv)
			}
		}
		slices.SortFunc(all, func(a, b *corev1.PersistentVolume) int { return strings.Compare(a.Name, b.Name) })
		for _, pv := range all {
			name := volume.GetPersistentVolumeClass(pv)
			if c.shelves[name] == nil {
				c.shelves[name] = &shelf{
					byHost: map[string][]*corev1.PersistentVolume{}, named: map[kinds.Key][]*corev1.PersistentVolume{},
				}
			}
			c.shelves[name].add(pv)
		}
	}
	if s := c.shelves[class]; s != nil {
		return s
	}
	return &shelf{}
}

func (s *shelf) add(pv *corev1.PersistentVolume) {
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim := kinds.Key{Resource: claims, Namespace: ref.Namespace, Name: ref.Name}
		s.named[claim] = append(s.named[claim], pv)
		return
	}
	if pv.Status.Phase != corev1.VolumeAvailable {
		return
	}
	hosts := hostsOf(pv)
	if hosts == nil {
		s.anywhere = append(s.anywhere, pv)
	}
	for _, host := range hosts {
		s.byHost[host] = append(s.byHost[host], pv)
	}
}

// hostsOf are the hosts that a volume's affinity names; nil: it names none, or not only by them.
func hostsOf(pv *corev1.PersistentVolume) (out []string) {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == corev1.LabelHostname && r.Operator == corev1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil
		}
		out = append(out, term.MatchExpressions[i].Values...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// listed says whether there is such a node.
func (c *cluster) listed(name string) bool {
	_, ok := slices.BinarySearchFunc(c.nodes, name, func(n *nodeInfo, name string) int { return cmp.Compare(n.name, name) })
	return ok
}

// volumesOn says what becomes of the pod's volumes on a node. Rows ask it more than once: it remembers until more volumes are taken.
func (d *demand) volumesOn(n *nodeInfo, c *cluster) reach {
	v := &d.volumes
	if len(v.late) == 0 {
		return v.on(n, c)
	}
	if v.reached == nil || v.taken != len(c.taken) {
		v.reached, v.taken = map[int]reach{}, len(c.taken)
	}
	out, known := v.reached[n.at]
	if !known {
		out = v.on(n, c)
		v.reached[n.at] = out
	}
	return out
}

func (v *volumes) on(n *nodeInfo, c *cluster) (out reach) {
	if slices.ContainsFunc(v.bound, func(p placing) bool { return !p.has(n) }) {
		out.reasons = append(out.reasons, volumeElsewhere)
	}
	if why := v.lateOn(n, c, &out); why != "" {
		out.reasons = append(out.reasons, why)
	}
	if v.missing {
		out.reasons = append(out.reasons, volumeMissing)
	}
	return out
}

// lateOn says why not all claims that wait get volumes on a node, and else which: those that are there, else ones that are made. Empty:
// they do.
func (v *volumes) lateOn(n *nodeInfo, c *cluster, out *reach) string {
	if slices.ContainsFunc(v.late, func(l late) bool { return l.node != "" && l.node != n.name }) {
		return noVolumeToBind
	}
	var wanting []*late
	for i := range v.late {
		l := &v.late[i]
		if pv := l.match(n, c, out.given); pv != nil {
			out.given = append(out.given, given{l.claim, pv})
			continue
		}
		wanting = append(wanting, l)
	}
	// Those that wait for theirs on this node come first.
	slices.SortStableFunc(wanting, func(a, b *late) int { return strings.Compare(b.node, a.node) })
	for _, l := range wanting {
		if !provisions(l.class, n) {
			return noVolumeToBind
		}
		room, ok := c.roomFor(l, n)
		if !ok {
			return noRoomForVolume
		}
		out.made, out.rooms = append(out.made, l.claim), append(out.rooms, room)
	}
	return ""
}

// roomFor is where a volume of the claim's size can be made for a node, as far as its driver wants that known; nil: it does not. Not
// ok: there is no room.
func (c *cluster) roomFor(l *late, n *nodeInfo) (room *storagev1.CSIStorageCapacity, ok bool) {
	size, asks := l.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	driver, _ := c.objects[kinds.Key{Group: storagev1.GroupName, Resource: csiDrivers, Name: l.class.Provisioner}].(*storagev1.CSIDriver)
	if !asks || driver == nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return nil, true
	}
	rooms := c.roomsOf(l.class.Name)
	i := slices.IndexFunc(rooms, func(o *storagev1.CSIStorageCapacity) bool {
		limit := o.MaximumVolumeSize
		if limit == nil {
			limit = o.Capacity
		}
		if limit == nil || limit.Value() < size.Value() || o.NodeTopology == nil {
			return false
		}
		selector, err := metav1.LabelSelectorAsSelector(o.NodeTopology)
		return err == nil && selector.Matches(labels.Set(n.node.Labels))
	})
	if i < 0 {
		return nil, false
	}
	return rooms[i], true
}

// roomsOf is what is told of the room that there is for volumes of a class.
func (c *cluster) roomsOf(class string) []*storagev1.CSIStorageCapacity {
	if c.rooms == nil {
		c.rooms = map[string][]*storagev1.CSIStorageCapacity{}
		for _, o := range c.objects {
			if room, ok := o.(*storagev1.CSIStorageCapacity); ok {
				c.rooms[room.StorageClassName] = append(c.rooms[room.StorageClassName], room)
			}
		}
		for _, rooms := range c.rooms { // any will do, the same each time
			slices.SortFunc(rooms, func(a, b *storagev1.CSIStorageCapacity) int { return kinds.KeyOf(a).Compare(kinds.KeyOf(b)) })
		}
	}
	return c.rooms[class]
}

// match is the volume for the claim on a node; nil: there is none.
func (l *late) match(n *nodeInfo, c *cluster, before []given) *corev1.PersistentVolume {
	if l.node != "" {
		return nil // it is asked for there
	}
	list := l.given
	if len(l.shelf.anywhere) > 0 {
		list = slices.Concat(list, l.shelf.anywhere)
	}
	if host, has := n.node.Labels[corev1.LabelHostname]; has && len(l.shelf.byHost[host]) > 0 {
		list = slices.Concat(list, l.shelf.byHost[host])
	}
	if len(list) == 0 {
		return nil
	}
	taken := c.taken
	if len(before) > 0 {
		taken = maps.Clone(taken)
		for _, g := range before {
			taken[g.pv.Name] = g.pv
		}
	}
	pv, err := volume.FindMatchingVolume(l.claim, list, n.node, taken, true, true)
	if err != nil {
		return nil // a selector that cannot be read was refused before
	}
	return pv
}

// provisions says whether somebody makes volumes of a class for a node.
func provisions(class *storagev1.StorageClass, n *nodeInfo) bool {
	if class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner {
		return false
	}
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions,
			func(r corev1.TopologySelectorLabelRequirement) bool {
				value, has := n.node.Labels[r.Key]
				return !has || !slices.Contains(r.Values, value)
			})
	})
}

// roomyVolumes prefers nodes where the volumes for a pod's claims would be used least.
func roomyVolumes() score {
	return score{
		name: "VolumeBinding", weight: 1, scope: itself, of: (*demand).roomOn,
		concerns: func(d *demand) bool { return len(d.volumes.late) > 0 },
	}
}

// roomOn is how much, of a hundred, of the volumes that the claims would have is not asked for, on an average of their classes. Where all
// are made, it is of the room that there is for them, as far as that is known.
func (d *demand) roomOn(n *nodeInfo, c *cluster) int64 {
	type use struct{ asked, size int64 }
	classes := map[string]use{}
	reach := d.volumesOn(n, c)
	for i, claim := range reach.made {
		if room := reach.rooms[i]; len(reach.given) == 0 && room != nil && room.Capacity != nil {
			asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
			u := classes[room.StorageClassName]
			classes[room.StorageClassName] = use{u.asked + asked.Value(), room.Capacity.Value()}
		}
	}
	for _, g := range reach.given {
		asked, size := g.claim.Spec.Resources.Requests[corev1.ResourceStorage], g.pv.Spec.Capacity[corev1.ResourceStorage]
		u := classes[g.pv.Spec.StorageClassName]
		classes[g.pv.Spec.StorageClassName] = use{u.asked + asked.Value(), u.size + size.Value()}
	}
	if len(classes) == 0 {
		return 0
	}
	sum := int64(0)
	for _, u := range classes {
		if u.size > 0 && u.asked <= u.size {
			sum += best - u.asked*best/u.size
		}
	}
	return int64(math.Round(float64(sum) / float64(len(classes))))
}
