package rules

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// services is the part of all services: a chain or two for each port, the trees that lead to them, and what refuses the
// packets that nobody answers. It remembers what each service compiled to, by the revisions of its objects, and the trees.
type services struct {
	scope    scope
	services map[serviceKey]*memo
	trees    trees
}

type serviceKey struct{ namespace, name string }

// memo is one service's part of the last result with what it was decided from.
type memo struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
	out    *compiled
	stale  bool // the scope changed since

	// The next input's objects, between the collecting and the deciding half of Compile.
	nextService *corev1.Service
	nextSlices  []*discoveryv1.EndpointSlice
}

// trees are the dispatching rules over all services.
type trees struct {
	addresses []string // root rules
	ports     []string // root rules
	chains    []*Chain
}

func newServices() *services { return &services{services: map[serviceKey]*memo{}} }

const toRefuse = "-m conntrack --ctstate NEW -j " + chainRefuse

// fill implements part.
func (c *services) fill(b *board, s setting, in Input) {
	if !c.scope.equal(s.scope) {
		c.scope = s.scope
		for _, m := range c.services {
			m.stale = true
		}
	}
	if c.update(in) {
		c.trees = c.growTrees()
	}
	var refused []string
	var refusedPorts []dispatch
	for _, m := range c.services {
		b.own(m.out.chains...)
		refused = append(refused, m.out.refuse...)
		refusedPorts = append(refusedPorts, m.out.refusePorts...)
		b.reached = append(b.reached, m.out.local...)
		for _, u := range m.out.udp {
			b.answered(u)
		}
	}
	b.own(c.trees.chains...)
	for _, n := range s.services {
		b.add(forwardRefuse, "-d "+n.String()+" "+s.family.reject())
		b.add(outputRefuse, "-d "+n.String()+" -m addrtype ! --dst-type LOCAL "+s.family.reject())
		b.add(dispatchAddresses, "-d "+n.String()+" -j "+chainOffNetwork)
	}
	b.add(inputRefuse, toRefuse)
	b.add(forwardRefuse, toRefuse)
	b.add(outputRefuse, toRefuse)
	b.add(dispatchAddresses, c.trees.addresses...)
	b.add(nodePorts, c.trees.ports...)
	b.own(&Chain{ChainID{NAT, chainOffNetwork}, offNetwork(s)})

	b.add(refuseAddresses, sortedUnique(refused, strings.Compare)...)
	b.add(refuseNode, "-m addrtype --dst-type LOCAL -j "+chainRefusePorts)
	root, chains := growPorts(Filter, refusedPorts)
	b.own(&Chain{ChainID{Filter, chainRefusePorts}, root})
	b.own(chains...)
}

// offNetwork marks traffic to cluster IPs that comes from no pod: an endpoint elsewhere could not
// answer it through this node.
func offNetwork(s setting) []string {
	var out []string
	for _, n := range s.podNetworks {
		out = append(out, "-s "+n.String()+" -j RETURN")
	}
	return append(out, setMark)
}

// update brings the memo of every service up to date and tells whether the trees must grow anew.
func (c *services) update(in Input) (regrow bool) {
	for _, svc := range in.Services {
		key := serviceKey{svc.Namespace, svc.Name}
		m := c.services[key]
		if m == nil {
			m = &memo{}
			c.services[key] = m
		}
		m.nextService, m.nextSlices = svc, m.nextSlices[:0]
	}
	for _, s := range in.Slices {
		key := serviceKey{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
		if m := c.services[key]; m != nil {
			m.nextSlices = append(m.nextSlices, s)
		}
	}
	for key, m := range c.services {
		if m.nextService == nil {
			regrow = regrow || len(m.out.dispatch) > 0
			delete(c.services, key)
			continue
		}
		regrow = m.decide(c.scope) || regrow
	}
	return regrow
}

// decide takes the next objects and tells whether the service's dispatch changed.
func (m *memo) decide(s scope) bool {
	slices.SortFunc(m.nextSlices, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	fresh := m.out != nil && !m.stale && sameRevision(m.svc, m.nextService) &&
		slices.EqualFunc(m.slices, m.nextSlices, sameRevision[*discoveryv1.EndpointSlice])
	changed := false
	if !fresh {
		out := compileService(s, m.nextService, m.nextSlices)
		changed = m.out == nil && len(out.dispatch) > 0 || m.out != nil && !m.out.sameDispatch(out)
		if m.out != nil {
			out.keep(m.out)
		}
		m.out, m.stale = out, false
	}
	m.svc, m.nextService = m.nextService, nil
	m.slices, m.nextSlices = m.nextSlices, m.slices
	clear(m.nextSlices)
	return changed
}

// keep replaces chains by the old ones that are equal, so that comparing them later is comparing
// pointers.
func (c *compiled) keep(old *compiled) {
	before := make(map[ChainID]*Chain, len(old.chains))
	for _, chain := range old.chains {
		before[chain.ChainID] = chain
	}
	for i, chain := range c.chains {
		if was := before[chain.ChainID]; was != nil && chain.Equal(was) {
			c.chains[i] = was
		}
	}
}

// sameRevision tells whether two versions of an object are one. Objects that never were in a store
// have no revision and are one only if they are the same value in memory.
func sameRevision[T interface {
	comparable
	GetResourceVersion() string
	GetUID() types.UID
}](a, b T) bool {
	return a == b || a.GetResourceVersion() != "" && a.GetResourceVersion() == b.GetResourceVersion() && a.GetUID() == b.GetUID()
}

func (c *services) growTrees() trees {
	var addresses []leaf
	var ports []dispatch
	for _, m := range c.services {
		for _, d := range m.out.dispatch {
			if d.address.IsValid() {
				addresses = append(addresses, leaf{addressKey(d.address), d.rules})
			} else {
				ports = append(ports, d)
			}
		}
	}
	var t trees
	var addressChains, portChains []*Chain
	t.addresses, addressChains = grow(addresses, destinations())
	t.ports, portChains = growPorts(NAT, ports)
	t.chains = slices.Concat(addressChains, portChains)
	return t
}

// growPorts makes a tree of node ports for each protocol.
func growPorts(table string, ports []dispatch) (root []string, chains []*Chain) {
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		var leaves []leaf
		for _, d := range ports {
			if d.protocol == protocol {
				leaves = append(leaves, leaf{portKey(d.nodePort), d.rules})
			}
		}
		more, grown := grow(leaves, portForm(table, protocol))
		root, chains = append(root, more...), append(chains, grown...)
	}
	return root, chains
}
