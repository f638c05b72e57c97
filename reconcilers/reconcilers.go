// Package reconcilers lists the control loops of a cluster.
package reconcilers

import (
	"fmt"
	"net/netip"
	"time"

	"lockstep/reconcilers/cluster"
	"lockstep/reconcilers/deployment"
	"lockstep/reconcilers/endpoints"
	"lockstep/reconcilers/endpointslice"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/garbagecollection"
	"lockstep/reconcilers/namespace"
	"lockstep/reconcilers/nodecidr"
	"lockstep/reconcilers/nodelifecycle"
	"lockstep/reconcilers/replicaset"
	"lockstep/reconcilers/rootca"
	"lockstep/reconcilers/serviceaccount"
	"lockstep/reconcilers/serviceip"
)

// Options are what the loops need to know of the cluster. Each list has at most one value a family.
type Options struct {
	// PodCIDRs are the pod networks; empty: 10.42.0.0/16.
	PodCIDRs []netip.Prefix
	// ServiceCIDRs are the service networks; empty: 10.43.0.0/16. The first address of each is the API servers'.
	ServiceCIDRs []netip.Prefix
	// NodePorts are the first and the last node port; zero: 30000 and 32767.
	NodePorts [2]int
	// DNS are the service addresses of the cluster's DNS; empty: the tenth address of each service network.
	DNS []netip.Addr
	// APIServers returns the addresses of the API servers that are running; nil: there are none to list. It is called
	// from several goroutines and must not block.
	APIServers func() []netip.AddrPort
	// CA is the cluster's CA in PEM, which every namespace is given; empty: none is.
	CA string
	// Since returns since when this process has taken heartbeats; no silence before it is held against a node. Nil:
	// forever. It is called from several goroutines and must not block.
	Since func() time.Time
}

func (o Options) withDefaults() Options {
	if len(o.PodCIDRs) == 0 {
		o.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}
	}
	if len(o.ServiceCIDRs) == 0 {
		o.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}
	}
	if o.NodePorts == [2]int{} {
		o.NodePorts = [2]int{30000, 32767}
	}
	if o.Since == nil {
		o.Since = func() time.Time { return time.Time{} }
	}
	if len(o.DNS) == 0 {
		for _, network := range o.ServiceCIDRs {
			o.DNS = append(o.DNS, nth(network, 10))
		}
	}
	return o
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	for _, lists := range [][]netip.Prefix{o.PodCIDRs, o.ServiceCIDRs} {
		families := map[bool]bool{}
		for _, p := range lists {
			if !p.IsValid() || families[p.Addr().Is4()] {
				return fmt.Errorf("cannot use network %v: there is one of its family already, or it is invalid", p)
			}
			families[p.Addr().Is4()] = true
		}
	}
	for _, pods := range o.PodCIDRs {
		for _, services := range o.ServiceCIDRs {
			if pods.Overlaps(services) {
				return fmt.Errorf("cannot use pod network %v: it overlaps the service network %v", pods, services)
			}
		}
	}
	if o.NodePorts[0] < 1 || o.NodePorts[1] > 65535 || o.NodePorts[0] > o.NodePorts[1] {
		return fmt.Errorf("cannot use node ports %d-%d: not a range of ports", o.NodePorts[0], o.NodePorts[1])
	}
	return nil
}

// Reserved are the addresses that only one service of the cluster's own may have, by its namespace/name.
func (o Options) Reserved() map[netip.Addr]string {
	o = o.withDefaults()
	reserved := map[netip.Addr]string{}
	for _, network := range o.ServiceCIDRs {
		reserved[nth(network, 1)] = "default/kubernetes"
	}
	for _, addr := range o.DNS {
		reserved[addr] = "kube-system/kube-dns"
	}
	return reserved
}

// All returns every control loop that engine.New runs. The scheduler is not among them: it decides about all pods
// together and keeps state.
func All(o Options) []engine.Reconciler {
	o = o.withDefaults()
	var api []netip.Addr
	for _, network := range o.ServiceCIDRs {
		api = append(api, nth(network, 1))
	}
	return []engine.Reconciler{
		cluster.New(cluster.Options{API: api, DNS: o.DNS, APIServers: o.APIServers}),
		namespace.New(),
		serviceaccount.New(),
		rootca.New(o.CA),
		nodecidr.New(o.PodCIDRs),
		nodelifecycle.New(o.Since),
		serviceip.New(serviceip.Options{CIDRs: o.ServiceCIDRs, NodePorts: o.NodePorts, Reserved: o.Reserved()}),
		deployment.New(),
		replicaset.New(),
		endpointslice.New(),
		endpoints.New(),
		garbagecollection.Owners(),
		garbagecollection.Pods(),
		garbagecollection.FinishedPods(),
	}
}

// nth returns a network's n-th address.
func nth(network netip.Prefix, n int) netip.Addr {
	addr := network.Masked().Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}
