package strategy

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
)

// Kubernetes fills in a service's interdependent address fields where it allocates, in
// pkg/registry/core/service/storage, which needs its allocators. Here a reconciler allocates after the creation, so
// that only the parts that need no allocator are done, for a cluster of one family.

// allocateService fills in clusterIPs, ipFamilyPolicy and ipFamilies of a new service, which has no old one. Of an update it
// keeps the allocated values that the new service does not state, so that the same manifest can be applied again.
func allocateService(obj, old runtime.Object) field.ErrorList {
	s := obj.(*core.Service)
	if old != nil {
		return keepAllocated(s, old.(*core.Service))
	}
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	return defaultFamilies(s)
}

func keepAllocated(s, was *core.Service) field.ErrorList {
	if takesClusterIP(s) && takesClusterIP(was) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = was.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = was.Spec.ClusterIPs
		}
		if s.Spec.IPFamilyPolicy == nil {
			s.Spec.IPFamilyPolicy = was.Spec.IPFamilyPolicy
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = was.Spec.IPFamilies
		}
	}
	if s.Spec.ClusterIP != was.Spec.ClusterIP && sameIPs(s.Spec.ClusterIPs, was.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = nil
		if s.Spec.ClusterIP != "" {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
	}
	if takesNodePorts(s) && takesNodePorts(was) {
		keepNodePorts(s, was)
	}
	if takesClusterIP(s) && !takesClusterIP(was) {
		return defaultFamilies(s)
	}
	return nil
}

// keepNodePorts gives ports without a node port the one that the port of the same name had, unless another port states
// it now.
func keepNodePorts(s, was *core.Service) {
	byName, stated := map[string]int32{}, map[int32]bool{}
	for _, p := range was.Spec.Ports {
		byName[p.Name] = p.NodePort
	}
	for _, p := range s.Spec.Ports {
		stated[p.NodePort] = true
	}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort == 0 && !stated[byName[p.Name]] {
			p.NodePort = byName[p.Name]
		}
	}
}

// defaultFamilies fills in ipFamilyPolicy and ipFamilies as a cluster of one family, IPv4, does. A headless service
// without a selector may have endpoints of both, as in Kubernetes.
func defaultFamilies(s *core.Service) field.ErrorList {
	if !takesClusterIP(s) {
		return nil
	}
	spec := field.NewPath("spec")
	headlessWithoutSelector := s.Spec.ClusterIP == core.ClusterIPNone && len(s.Spec.Selector) == 0

	if s.Spec.IPFamilyPolicy == nil {
		policy := core.IPFamilyPolicySingleStack
		if headlessWithoutSelector {
			policy = core.IPFamilyPolicyRequireDualStack
		}
		s.Spec.IPFamilyPolicy = &policy
	}
	if headlessWithoutSelector {
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = []core.IPFamily{core.IPv4Protocol}
		}
		if *s.Spec.IPFamilyPolicy != core.IPFamilyPolicySingleStack && len(s.Spec.IPFamilies) == 1 {
			other := core.IPv6Protocol
			if s.Spec.IPFamilies[0] == core.IPv6Protocol {
				other = core.IPv4Protocol
			}
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, other)
		}
		return nil
	}

	var errs field.ErrorList
	if *s.Spec.IPFamilyPolicy == core.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), *s.Spec.IPFamilyPolicy,
			"this cluster is not configured for dual-stack services"))
	}
	for i, family := range s.Spec.IPFamilies {
		if family == core.IPv6Protocol {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	for i, ip := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil && addr.Is6() {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(i), ip, "IPv6 is not configured on this cluster"))
		}
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []core.IPFamily{core.IPv4Protocol}
	}
	return errs
}

func takesClusterIP(s *core.Service) bool { return s.Spec.Type != core.ServiceTypeExternalName }

func takesNodePorts(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeNodePort || s.Spec.Type == core.ServiceTypeLoadBalancer &&
		(s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

func sameIPs(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
