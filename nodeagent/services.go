package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/dns"
	"lockstep/nodeagent/images"
	"lockstep/nodeagent/register"
	"lockstep/proxy"
	"lockstep/proxy/rules"
)

// dnsPort is where names are asked for (RFC 1035).
const dnsPort = 53

// startNet starts proxy and DNS, which need complete caches: an incomplete
// picture would remove rules that are in use.
func (a *Agent) startNet(ctx context.Context) {
	a.netOnce.Do(func() { a.runNet(ctx) })
}

func (a *Agent) runNet(ctx context.Context) {
	p, err := proxy.New(proxy.Options{State: a.proxyState, Wake: a.proxyWake, Drift: a.proxyDrift, Changed: a.vitalChanged, Log: a.log, Registerer: a.opts.Metrics})
	if err != nil {
		a.log.Error("cannot start proxy", "error", err)
		return
	}
	var listen []netip.AddrPort
	servers, domain := a.namesAt()
	for _, ip := range servers {
		listen = append(listen, netip.AddrPortFrom(ip, dnsPort))
	}
	d, err := dns.New(dns.Options{Listen: listen, Domain: domain, State: a.dnsState, Wake: a.dnsWake, Changed: a.vitalChanged, Log: a.log, Registerer: a.opts.Metrics,
		Process: companion.Program{RunDir: a.opts.RunDir, Cgroup: namesCgroup(a.opts.NodeName), Build: a.opts.Version}})
	if err != nil {
		a.log.Error("cannot have names answered", "error", err)
		return
	}
	a.mu.Lock()
	a.rules, a.names = &vital{health: p.Health}, &vital{health: d.Health}
	a.mu.Unlock()
	a.group.Go(func() error { return p.Run(ctx) })
	a.group.Go(func() error { return d.Run(ctx) })
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
	c, ips, set := a.caches, a.ips, a.opts.cluster
	a.mu.Unlock()
	in := rules.Input{
		Node:        rules.Node{Name: a.opts.NodeName, Addresses: ips},
		PodNetworks: set.PodCIDRs, ServiceNetworks: set.ServiceCIDRs, LocalServices: set.DNS(), LocalhostPorts: true,
	}
	if u, err := url.Parse(a.opts.Server); err == nil {
		if server, err := netip.ParseAddrPort(u.Host); err == nil { // a name is known by its endpoints, and by the mark
			in.Servers = append(in.Servers, server)
		}
	}
	in.Services, _ = c.services.List(labels.Everything()) // listers do not fail
	in.Slices, _ = c.slices.List(labels.Everything())
	if n, err := c.nodes.Get(a.opts.NodeName); err == nil {
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
	first := "differences"
	if len(d.Findings) > 0 {
		first = d.Findings[0].String()
	}
	a.drift("RepairedRules", fmt.Sprintf("Repaired %d differences of the service rules in %s, the first: %s", d.Total, d.Took.Round(time.Millisecond), first))
}

func (a *Agent) dnsState() dns.State {
	a.mu.Lock()
	c, set := a.caches, a.opts.cluster
	a.mu.Unlock()
	s := dns.State{}
	s.Networks = append(append(s.Networks, set.PodCIDRs...), set.ServiceCIDRs...)
	s.Services, _ = c.services.List(labels.Everything()) // listers do not fail
	s.Slices, _ = c.slices.List(labels.Everything())
	list, _ := c.namespaces.List(labels.Everything())
	s.Namespaces = []string{}
	for _, n := range list {
		s.Namespaces = append(s.Namespaces, n.Name)
	}
	return s
}

// collectImages imports the archives of ImagesDir, then removes unused images
// when the disk fills, until ctx ends.
func (a *Agent) collectImages(ctx context.Context) error {
	if a.opts.ImagesDir != "" {
		names, err := a.images.Import(ctx, a.opts.ImagesDir)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot import all images", "error", err)
		}
		if len(names) > 0 {
			a.log.Info("imported images", "count", len(names))
		}
	}
	close(a.imported)
	t := time.NewTicker(collectPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		var wanted []string
		for _, p := range a.allPods() {
			o := p.Object()
			for _, cs := range [][]corev1.Container{o.Spec.InitContainers, o.Spec.Containers} {
				for i := range cs {
					wanted = append(wanted, cs[i].Image)
				}
			}
		}
		removed, err := a.images.Collect(ctx, wanted, images.Thresholds{})
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot remove unused images", "error", err)
		}
		for _, c := range removed {
			poke(a.imagesWake)
			a.log.Info("removed unused image", "names", c.Names, "bytes", c.Size)
		}
	}
}

// listPeriod is how often the images are looked at without a reason.
const listPeriod = time.Minute

// listImages keeps what the node reports of its images up to date.
func (a *Agent) listImages(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.imported:
	}
	t := time.NewTicker(listPeriod)
	defer t.Stop()
	for {
		list, err := a.images.List(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot list images", "error", err)
		}
		if err == nil {
			a.mu.Lock()
			changed := !equality.Semantic.DeepEqual(a.nodeImages, list)
			a.nodeImages = list
			a.mu.Unlock()
			if changed {
				a.reportNode()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.imagesWake:
		case <-t.C:
		}
	}
}
