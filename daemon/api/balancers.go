package api

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/store/view"
	"lockstep/sync/manifest"
	"lockstep/sync/plan"
)

// checkServiceStatus is rights.CheckProgramStatus for a Service: a load balancer's addresses are none of those that no manifest could
// state either, nor more, for nodes take the packets to them as a service's.
func (s *server) checkServiceStatus(account string, v *view.View, new, old kinds.Object) error {
	if err := rights.CheckProgramStatus(account, v, new, old); err != nil {
		return err
	}
	svc, ingress := new.(*corev1.Service), field.NewPath("status", "loadBalancer", "ingress")
	if n, most := len(svc.Status.LoadBalancer.Ingress), manifest.MaxPorts/max(1, len(svc.Spec.Ports)); n > most {
		return field.TooMany(ingress, n, most)
	}
	whose := plan.Networks{CIDRs: s.opts.Settings.ServiceCIDRs, Pods: s.opts.Settings.PodCIDRs}.Whose(v)
	for i, at := range svc.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(at.IP)
		if err != nil || at.IPMode != nil && *at.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // nodes take no packets to it
		}
		if owner := whose(addr.Unmap()); owner != "" {
			return field.Forbidden(ingress.Index(i).Child("ip"), fmt.Sprintf("%v is %s, which no service can have", addr, owner))
		}
	}
	return nil
}
