package health

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestBalancers: a Service of a load balancer's class waits for an address, whatever its pods do.
func TestBalancers(t *testing.T) {
	balanced := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, new("example.com/lb")
	}
	told := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	}
	key := kinds.For[*corev1.Service]().Key("shop", "cart")
	for _, c := range []struct {
		service *corev1.Service
		state   kinds.State
		cause   string
	}{
		{svc(balanced), kinds.Progressing, "waits for an address of the load balancer example.com/lb"},
		{svc(balanced, told), kinds.Healthy, ""},
		{svc(told), kinds.Healthy, ""},
	} {
		v := view.Of(c.service, podOf(nil, "q", isReady))
		if got := At(seen(v, key), now).Of(key); got.State != c.state || got.Cause != c.cause {
			t.Errorf("%v %q, want %v %q", got.State, got.Cause, c.state, c.cause)
		}
	}
}
