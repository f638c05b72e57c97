// Package client reaches those groups of the API that a node uses.
package client

import (
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	nodev1 "k8s.io/client-go/kubernetes/typed/node/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// Interface is what a node uses of client-go's kubernetes.Interface, which brings the clients of some fifty groups and
// versions into a program, with all of their methods. That one's fake serves tests of this.
type Interface interface {
	CoreV1() corev1.CoreV1Interface
	CoordinationV1() coordinationv1.CoordinationV1Interface
	DiscoveryV1() discoveryv1.DiscoveryV1Interface
	NodeV1() nodev1.NodeV1Interface
}

type groups struct {
	core         *corev1.CoreV1Client
	coordination *coordinationv1.CoordinationV1Client
	discovery    *discoveryv1.DiscoveryV1Client
	node         *nodev1.NodeV1Client
	networking   *rest.RESTClient
}

// New makes no connection yet. The groups share one transport and one bound of requests a second, as those of a clientset do.
func New(config *rest.Config) (Interface, error) {
	shared := rest.CopyConfig(config)
	if shared.RateLimiter == nil && shared.QPS > 0 {
		shared.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(shared.QPS, shared.Burst)
	}
	h, err := rest.HTTPClientFor(shared)
	if err != nil {
		return nil, err
	}
	var g groups
	if g.core, err = corev1.NewForConfigAndClient(shared, h); err != nil {
		return nil, err
	}
	if g.coordination, err = coordinationv1.NewForConfigAndClient(shared, h); err != nil {
		return nil, err
	}
	if g.discovery, err = discoveryv1.NewForConfigAndClient(shared, h); err != nil {
		return nil, err
	}
	if g.node, err = nodev1.NewForConfigAndClient(shared, h); err != nil {
		return nil, err
	}
	if g.networking, err = networking(shared, h); err != nil {
		return nil, err
	}
	return &g, nil
}

func (g *groups) CoreV1() corev1.CoreV1Interface                         { return g.core }
func (g *groups) CoordinationV1() coordinationv1.CoordinationV1Interface { return g.coordination }
func (g *groups) DiscoveryV1() discoveryv1.DiscoveryV1Interface          { return g.discovery }
func (g *groups) NodeV1() nodev1.NodeV1Interface                         { return g.node }
