package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/dns"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/register"
	"lockstep/proxy"
	"lockstep/proxy/rules"
)

// dnsPort is where names are asked for (RFC 1035).
const dnsPort = 53

// serveServices keeps service rules and names until ctx ends. Both need to know
// the cluster: an incomplete picture would remove rules that are in use.
func (a *Agent) serveServices(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.cluster.Known():
	}
	p, err := proxy.New(proxy.Options{
		State: a.proxyState, Wake: a.cluster.Subscribe(), Drift: a.proxyDrift, Changed: a.vitalChanged, Log: a.log,
		Registerer: a.opts.Metrics,
	})
	if err != nil {
		a.log.Error("cannot start proxy", "error", err)
		return nil
	}
	var listen []netip.AddrPort
	servers, domain := a.namesAt()
	for _, ip := range servers {
		listen = append(listen, netip.AddrPortFrom(ip, dnsPort))
	}
	d, err := dns.New(dns.Options{Listen: listen, Domain: domain, State: a.dnsState, Wake: a.cluster.Subscribe(), Changed: a.vitalChanged,
		Log: a.log, Registerer: a.opts.Metrics,
		Process: companion.Program{
			RunDir: a.opts.RunDir, Cgroup: namesCgroup(a.opts.NodeName), Build: a.opts.Version, For: machine.Cgroup(a.opts.NodeName),
		}})
	if err != nil {
		a.log.Error("cannot have names answered", "error", err)
		return nil
	}
	a.mu.Lock()
	a.rules, a.names = &vital{health: p.Health}, &vital{health: d.Health}
	a.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Run(ctx) })
	g.Go(func() error { return d.Run(ctx) })
	return g.Wait()
}

func namesCgroup(node string) string { return filepath.Join("/lockstep-names", node) }

// vitalPatience is how long what worked may fail before the node is not ready for it: it was tried again by then, and who
// held the lock of iptables has let go.
const vitalPatience = 5 * time.Second

// vital is a part without which the node is not ready.
type vital struct {
	health func() error // an undecided error before the first attempt has ended
	right  bool         // it worked, once
	failed time.Time    // since when it does not; zero: it does
}

// trouble is why the part does not work; undecided says that this is not known yet.
func (v *vital) trouble(now time.Time) (err error, undecided bool) {
	if v == nil {
		return errors.New("the cluster's services are not known yet"), true
	}
	err = v.health()
	switch {
	case errors.Is(err, proxy.ErrNotSynced), errors.Is(err, dns.ErrNotAnswered):
		return err, true
	case err == nil:
		v.right, v.failed = true, time.Time{}
	case v.failed.IsZero():
		v.failed = now
	}
	if err != nil && v.right && now.Sub(v.failed) < vitalPatience {
		return nil, false
	}
	return err, false
}

// vitalChanged has the node report that a vital part works now, or does not; what has just failed, when its patience is over.
func (a *Agent) vitalChanged() {
	a.reportNode()
	time.AfterFunc(vitalPatience, a.reportNode)
}

// reportVitals adds to a report how the vital parts are. a.mu is held.
func (a *Agent) reportVitals(s *register.State, now time.Time) {
	const rules, names = "service rules are not in place: ", "names are not answered: "
	err, undecided := a.rules.trouble(now)
	switch {
	case undecided:
		s.Undecided = rules + err.Error()
	case err != nil:
		s.NoRules = err.Error()
	}
	err, undecided = a.names.trouble(now)
	switch {
	case undecided && s.Undecided == "":
		s.Undecided = names + err.Error()
	case !undecided && err != nil:
		s.NotReady = append(s.NotReady, names+err.Error())
	}
}

func (a *Agent) proxyState() rules.Input {
	a.mu.Lock()
	ips, set := a.ips, a.opts.cluster
	a.mu.Unlock()
	known := a.cluster.Snapshot()
	in := rules.Input{
		Node:        rules.Node{Name: a.opts.NodeName, Addresses: ips},
		PodNetworks: set.PodCIDRs, ServiceNetworks: set.ServiceCIDRs, LocalServices: set.DNS(), LocalhostPorts: true,
	}
	in.Servers = a.serverAddresses()
	in.Services, in.Slices = known.Services, known.Slices
	if n := known.Node(a.opts.NodeName); n != nil {
		for _, cidr := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				in.Node.PodCIDRs = append(in.Node.PodCIDRs, p)
			}
		}
	}
	for _, p := range a.allPods() {
		in.HostPorts = append(in.HostPorts, hostPortsOf(p.Object(), p.Addresses())...)
	}
	return in
}

// hostPortsOf are the host ports of a pod that has addresses. One for an address that is none is none: it must not be
// open at every address.
func hostPortsOf(o *corev1.Pod, ips []string) []rules.HostPort {
	var out []rules.HostPort
	for _, c := range o.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			hostIP, err := netip.ParseAddr(port.HostIP)
			if err != nil && port.HostIP != "" {
				continue
			}
			hostIP = hostIP.Unmap()
			for _, ip := range ips {
				if addr, err := netip.ParseAddr(ip); err == nil {
					out = append(out, rules.HostPort{Pod: o.Namespace + "/" + o.Name, PodIP: addr, Port: uint16(port.ContainerPort),
						HostPort: uint16(port.HostPort), HostIP: hostIP, Protocol: port.Protocol})
				}
			}
		}
	}
	return out
}

func (a *Agent) proxyDrift(d proxy.Drift) {
	for _, f := range d.Findings {
		a.log.Warn("repaired service rules", "finding", f.String(), "took", d.Took)
	}
	f := drift.Finding{ID: fmt.Sprintf("rules/%d", d.Noticed.UnixNano()), Kind: drift.Rules, Noticed: d.Noticed,
		Repaired: d.Noticed.Add(d.Took), How: "written back in " + d.Took.Round(time.Millisecond).String()}
	for _, of := range d.Findings {
		f.Evidence = append(f.Evidence, of.String())
	}
	if len(d.Findings) > 0 {
		f.Place, f.What = d.Findings[0].Table+" "+d.Findings[0].Chain, string(d.Findings[0].What)
	}
	if d.Total != 1 {
		f.What = fmt.Sprintf("%d differences, first: %s", d.Total, f.What)
	}
	a.differs(f)
	first := "differences"
	if len(d.Findings) > 0 {
		first = d.Findings[0].String()
	}
	a.drift("RepairedRules", fmt.Sprintf("Repaired %d differences of the service rules in %s, the first: %s", d.Total,
		d.Took.Round(time.Millisecond), first))
}

func (a *Agent) dnsState() dns.State {
	known, set := a.cluster.Snapshot(), a.settings()
	s := dns.State{Services: known.Services, Slices: known.Slices, Namespaces: []string{}}
	s.Networks = append(append(s.Networks, set.PodCIDRs...), set.ServiceCIDRs...)
	for _, n := range known.Namespaces {
		s.Namespaces = append(s.Namespaces, n.Name)
	}
	return s
}
