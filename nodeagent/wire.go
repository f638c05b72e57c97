package nodeagent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/whole"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pods"
)

// podCIDRsFile keeps the ranges of the node's pods.
const podCIDRsFile = "pod-cidrs"

// wire sets up the network for this node's pods, and routes to others', until ctx ends.
func (a *Agent) wire(ctx context.Context) error {
	wake := a.cluster.Subscribe()
	var self *corev1.Node
	var moves uint64 // begins below all
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		s := a.cluster.Snapshot()
		if s == nil {
			continue
		}
		// What is kept of a node's own ranges was restored at the start.
		now := s.Node(a.opts.NodeName)
		if s.Complete && now != nil && now != self && len(now.Spec.PodCIDRs) > 0 {
			a.configureNetwork(now.Spec.PodCIDRs, true)
		}
		if now == self && s.Moves == moves {
			continue
		}
		routes := routesTo(s.Nodes, a.opts.NodeName)
		a.mu.Lock()
		a.routes = routes
		a.mu.Unlock()
		if err := network.SetRoutes(routes); err != nil {
			a.log.Warn("cannot set all routes", "error", err)
		}
		self, moves = now, s.Moves
	}
}

// routesTo are the routes to the pods of all nodes but self.
func routesTo(nodes []*corev1.Node, self string) network.Routes {
	out := network.Routes{}
	for _, n := range nodes {
		if n.Name == self {
			continue
		}
		for _, cidr := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(cidr)
			if err != nil {
				continue
			}
			for _, addr := range n.Status.Addresses {
				ip, err := netip.ParseAddr(addr.Address)
				if err == nil && addr.Type == corev1.NodeInternalIP && ip.Is4() == p.Addr().Is4() {
					out[p.Masked()] = ip
					break
				}
			}
		}
	}
	return out
}

// configureNetwork makes pod addresses available and wakes those who wait for
// them. keep stores the ranges for a start without the API.
func (a *Agent) configureNetwork(cidrs []string, keep bool) {
	err := a.net.Configure(cidrs)
	why := ""
	if err != nil {
		why = err.Error()
	} else if keep {
		if err := whole.Write(filepath.Join(a.opts.agentDir(), podCIDRsFile), []byte(strings.Join(cidrs, "\n"))); err != nil {
			a.log.Warn("cannot keep pod ranges", "error", err)
		}
	}
	a.mu.Lock()
	changed := a.noNetwork != why
	a.noNetwork = why
	a.mu.Unlock()
	if !changed {
		return
	}
	a.reportNode()
	for _, p := range a.allPods() {
		p.Hear(pods.NetworkChanged)
	}
}

// restoreNetwork takes up the ranges of an earlier run, or the user's own network.
func (a *Agent) restoreNetwork() {
	data, _ := os.ReadFile(filepath.Join(a.opts.agentDir(), podCIDRsFile)) // absent on a new node
	cidrs := slices.DeleteFunc(strings.Split(string(data), "\n"), func(s string) bool { return s == "" })
	if len(cidrs) > 0 || a.opts.CNIConfDir != "" {
		a.configureNetwork(cidrs, false)
	}
}
