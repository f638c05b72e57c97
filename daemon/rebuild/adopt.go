package rebuild

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/recall"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// valid says whether Kubernetes' rules would take an object; strategy.PrepareCreate is it. It may change what it is given.
type valid func(kinds.Object) error

// adoption are the writes that bring back what a node offers, and what of it was left out, with why.
type adoption struct {
	writes []store.Write
	left   []error
}

func (a *adoption) put(v *view.View, o kinds.Object) {
	o.SetResourceVersion("")
	o.SetManagedFields(nil)
	w := store.Write{Key: kinds.KeyOf(o), Object: o, Reason: "a node knows it"}
	if live := v.Get(w.Key); live != nil {
		w.If = kinds.Revision(live)
	}
	a.writes = append(a.writes, w)
}

func (a *adoption) leave(o kinds.Object, why string) {
	a.left = append(a.left, fmt.Errorf("%v is not taken over: %s", kinds.KeyOf(o), why))
}

// keys are those of the objects that are written.
func (a *adoption) keys() []kinds.Key {
	out := make([]kinds.Key, len(a.writes))
	for i, w := range a.writes {
		out[i] = w.Key
	}
	return out
}

// adopt decides what of a node's offer is written: what the store has not, and what it has only by half. Of nodes, the registered
// ones; of all else, what the node itself runs and mounts, and, of one that was asked, services but for the cluster's own. The offer's
// objects become the adoption's.
func adopt(v *view.View, node string, o recall.Offer, registered []string, reports map[string]told, ok valid,
	own func(kinds.Key) bool) adoption {
	var a adoption
	for _, n := range o.Nodes {
		if n != nil && slices.Contains(registered, n.Name) && (n.Name == node || o.Cluster) {
			a.node(v, n, ok)
		}
	}
	mounted := map[kinds.Key]bool{}
	for p := range v.PodsOnNode(node) {
		mounts(p, mounted)
	}
	for _, p := range o.Pods {
		if p != nil && p.Spec.NodeName == node {
			mounts(p, mounted)
		}
	}
	volumes := map[string]bool{}
	for _, c := range o.Claims {
		if c != nil && mounted[kinds.KeyOf(c)] {
			volumes[c.Spec.VolumeName] = a.claim(v, c, ok)
		}
	}
	for _, pv := range o.Volumes {
		if pv != nil && volumes[pv.Name] {
			a.volume(v, pv, ok)
		}
	}
	for _, p := range o.Pods {
		if p != nil {
			a.pod(v, node, p, reports, ok)
		}
	}
	if o.Cluster {
		a.services(v, o.Services, ok, own)
		a.slices(v, o.Slices, ok, own)
	}
	return a
}

// mounts adds the claims that a pod mounts.
func mounts(p *corev1.Pod, to map[kinds.Key]bool) {
	for i := range p.Spec.Volumes {
		if name := kinds.ClaimOf(p, &p.Spec.Volumes[i]); name != "" {
			to[kinds.For[*corev1.PersistentVolumeClaim]().Key(p.Namespace, name)] = true
		}
	}
}

// node brings a Node back with its uid and its part of the pod network; of one that is there already, that has registered anew, it
// is the part alone. A part that another node has is not given twice.
func (a *adoption) node(v *view.View, n *corev1.Node, ok valid) {
	live, there := view.Get[*corev1.Node](v, "", n.Name)
	switch {
	case there && len(live.Spec.PodCIDRs) > 0 || len(n.Spec.PodCIDRs) == 0:
		return
	case taken(v, n):
		a.leave(n, "another node has its addresses of pods")
		return
	}
	if there {
		changed := live.DeepCopy()
		changed.Spec.PodCIDR, changed.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
		a.put(v, changed)
		return
	}
	n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses} // how it is, its agent says
	if err := ok(n.DeepCopy()); err != nil {
		a.leave(n, err.Error())
		return
	}
	a.put(v, n)
}

func taken(v *view.View, n *corev1.Node) bool {
	for other := range view.List[*corev1.Node](v, "") {
		for _, theirs := range other.Spec.PodCIDRs {
			for _, own := range n.Spec.PodCIDRs {
				p, err := netip.ParsePrefix(own)
				q, other := netip.ParsePrefix(theirs)
				if err != nil || other == nil && p.Overlaps(q) {
					return true
				}
			}
		}
	}
	return false
}

// claim says whether the volume of the claim is wanted with it. One that was made anew meanwhile and is bound to nothing gives way.
func (a *adoption) claim(v *view.View, c *corev1.PersistentVolumeClaim, ok valid) bool {
	live, there := view.Get[*corev1.PersistentVolumeClaim](v, c.Namespace, c.Name)
	switch {
	case c.Spec.VolumeName == "":
		return false // nothing of it is on the node
	case there && live.UID == c.UID && live.Spec.VolumeName == c.Spec.VolumeName:
		return true
	case there && live.Spec.VolumeName != "":
		a.leave(c, "there is another one, which has volume "+live.Spec.VolumeName)
		return false
	}
	if err := ok(c.DeepCopy()); err != nil {
		a.leave(c, err.Error())
		return false
	}
	a.put(v, c)
	return true
}

// volume brings a volume back, but none that is there.
func (a *adoption) volume(v *view.View, pv *corev1.PersistentVolume, ok valid) {
	if _, there := view.Get[*corev1.PersistentVolume](v, "", pv.Name); there {
		return
	}
	if err := ok(pv.DeepCopy()); err != nil {
		a.leave(pv, err.Error())
		return
	}
	a.put(v, pv)
}

// pod brings a pod back. One of its name that has no node yet gives way, as does one whose node has said that it does not run it, or
// has said nothing.
func (a *adoption) pod(v *view.View, node string, p *corev1.Pod, reports map[string]told, ok valid) {
	if p.Spec.NodeName != node || p.UID == "" {
		a.leave(p, "it is not a pod of node "+node)
		return
	}
	live, there := view.Get[*corev1.Pod](v, p.Namespace, p.Name)
	switch {
	case there && live.UID == p.UID:
		return
	case there && live.Spec.NodeName != "":
		if _, runs := reports[live.Spec.NodeName]; runs {
			a.leave(p, "node "+live.Spec.NodeName+" has another one of its name")
			return
		}
	}
	if other := v.ByUID(p.UID); other != nil {
		a.leave(p, fmt.Sprintf("%v has its uid", kinds.KeyOf(other)))
		return
	}
	if err := ok(p.DeepCopy()); err != nil {
		a.leave(p, err.Error())
		return
	}
	a.put(v, p)
}

// services brings all back but those that are there, those whose addresses or ports another one has by now, and the cluster's own,
// whose addresses are the same always.
func (a *adoption) services(v *view.View, all []*corev1.Service, ok valid, own func(kinds.Key) bool) {
	addresses, ports := map[string]bool{}, map[int32]bool{}
	has := func(s *corev1.Service) bool {
		return slices.ContainsFunc(s.Spec.ClusterIPs, func(ip string) bool { return ip != corev1.ClusterIPNone && addresses[ip] }) ||
			slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 && ports[p.NodePort] })
	}
	note := func(s *corev1.Service) {
		for _, ip := range s.Spec.ClusterIPs {
			addresses[ip] = true
		}
		for _, p := range s.Spec.Ports {
			ports[p.NodePort] = true
		}
	}
	for s := range view.List[*corev1.Service](v, "") {
		note(s)
	}
	for _, s := range all {
		if s == nil || own(kinds.KeyOf(s)) {
			continue
		}
		if _, there := view.Get[*corev1.Service](v, s.Namespace, s.Name); there {
			continue
		}
		if has(s) {
			a.leave(s, "another service has its address or port")
			continue
		}
		if err := ok(s.DeepCopy()); err != nil {
			a.leave(s, err.Error())
			continue
		}
		note(s)
		a.put(v, s)
	}
}

// slices brings all back but those that are there and those of the cluster's own services: until it is known again which pods are
// ready, services lead where they did.
func (a *adoption) slices(v *view.View, all []*discoveryv1.EndpointSlice, ok valid, own func(kinds.Key) bool) {
	for _, s := range all {
		if s == nil || own(kinds.For[*corev1.Service]().Key(s.Namespace, s.Labels[discoveryv1.LabelServiceName])) {
			continue
		}
		if _, there := view.Get[*discoveryv1.EndpointSlice](v, s.Namespace, s.Name); there {
			continue
		}
		if err := ok(s.DeepCopy()); err != nil {
			a.leave(s, err.Error())
			continue
		}
		a.put(v, s)
	}
}

// ended are the pods that the store has on a node that has none of them: they had started there, and are gone. Their deletion is
// known to nobody else.
func ended(v *view.View, node string, offered map[types.UID]bool) (out []store.Write) {
	for p := range v.PodsOnNode(node) {
		if p.Status.StartTime != nil && !offered[p.UID] {
			out = append(out, store.Write{Key: kinds.KeyOf(p), If: kinds.Revision(p), Reason: "its node does not have it any more"})
		}
	}
	return out
}
