// Package nodecidr gives every node its part of the pod network.
package nodecidr

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Bits of a node's part, by family: Kubernetes' defaults. 254 pod addresses are more than twice the 110 pods that a
// node takes by default.
const (
	bits4 = 24
	bits6 = 64
)

// New returns the reconciler that takes nodes' pod CIDRs from the cluster's, one of each.
func New(cluster []netip.Prefix) loop.Reconciler {
	return loop.Reconciler{
		Name:      "nodecidr",
		Component: "cidrAllocator",
		Single:    true,
		Reads: []loop.Read{{
			Kind:    kinds.For[*corev1.Node](),
			How:     "all nodes are decided together",
			Keys:    loop.Cluster,
			Changed: func(old, new kinds.Object) bool { return len(new.(*corev1.Node).Spec.PodCIDRs) == 0 },
		}},
		Writes: []loop.Write{{Kind: kinds.For[*corev1.Node](), Fields: []string{"spec.podCIDR", "spec.podCIDRs"}}},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (loop.Decision, error) { return decide(v, cluster), nil },
	}
}

func decide(v *view.View, cluster []netip.Prefix) loop.Decision {
	var d loop.Decision
	taken := map[netip.Prefix]bool{}
	var waiting []*corev1.Node
	for node := range view.List[*corev1.Node](v, "") {
		if len(node.Spec.PodCIDRs) == 0 && node.DeletionTimestamp == nil {
			waiting = append(waiting, node)
		}
		for _, text := range node.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				taken[p.Masked()] = true
			}
		}
	}
	for _, node := range waiting {
		cidrs, ok := free(cluster, taken)
		if !ok {
			d.Events = append(d.Events, loop.Event{
				About: node, Type: corev1.EventTypeNormal, Reason: "CIDRNotAvailable",
				Message: fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name),
			})
			continue
		}
		changed := node.DeepCopy()
		for _, p := range cidrs {
			taken[p] = true
			changed.Spec.PodCIDRs = append(changed.Spec.PodCIDRs, p.String())
		}
		changed.Spec.PodCIDR = changed.Spec.PodCIDRs[0]
		d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "the node has no pod CIDR"})
	}
	return d
}

// free returns the lowest free part of each of the cluster's CIDRs; not ok where one is used up.
func free(cluster []netip.Prefix, taken map[netip.Prefix]bool) (parts []netip.Prefix, ok bool) {
	for _, whole := range cluster {
		part, ok := lowest(whole.Masked(), taken)
		if !ok {
			return nil, false
		}
		parts = append(parts, part)
	}
	return parts, len(parts) > 0
}

func lowest(whole netip.Prefix, taken map[netip.Prefix]bool) (netip.Prefix, bool) {
	bits := bits4
	if whole.Addr().Is6() {
		bits = bits6
	}
	bits = max(bits, whole.Bits())
	for p := netip.PrefixFrom(whole.Addr(), bits); whole.Contains(p.Addr()); p = next(p) {
		if !overlaps(p, taken) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// overlaps also finds parts of another size, which were given under another configuration.
func overlaps(p netip.Prefix, taken map[netip.Prefix]bool) bool {
	if taken[p] {
		return true
	}
	for other := range taken {
		if other.Bits() != p.Bits() && other.Overlaps(p) {
			return true
		}
	}
	return false
}

// next returns the prefix of the same size that follows p; an invalid one after the last.
func next(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	for bit := p.Bits() - 1; bit >= 0; bit-- {
		mask := byte(0x80 >> (bit % 8))
		b[bit/8] ^= mask
		if b[bit/8]&mask != 0 {
			addr, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(addr, p.Bits())
		}
	}
	return netip.Prefix{}
}
