package rules

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Prefix begins the name of every chain that is ours; no chain without it is ever touched.
const Prefix = "LOCKSTEP-"

// The tables that have chains of ours.
const (
	NAT    = "nat"
	Filter = "filter"
)

// Tables lists them in the order in which Text has them: nat last, so that where a restore loads
// table by table the reject rules stand before traffic is sent past them.
func Tables() []string { return []string{Filter, NAT} }

// ChainID names a chain.
type ChainID struct{ Table, Name string }

// Compare orders chains by table and name.
func (id ChainID) Compare(other ChainID) int {
	return cmp.Or(cmp.Compare(id.Table, other.Table), cmp.Compare(id.Name, other.Name))
}

// Chain is one chain of ours. It is immutable, so an unchanged chain is the same pointer from one
// Ruleset to the next.
type Chain struct {
	ChainID
	// Rules in order, spelled as iptables-save spells them, each without "-A <name> ".
	Rules []string
}

// Equal tells whether both are the same chain with the same rules.
func (c *Chain) Equal(other *Chain) bool {
	return c == other || c.ChainID == other.ChainID && slices.Equal(c.Rules, other.Rules)
}

// AppendTo adds the chain's rules to b, a line each, as iptables-restore reads them.
func (c *Chain) AppendTo(b *strings.Builder) {
	for _, r := range c.Rules {
		b.WriteString("-A ")
		b.WriteString(c.Name)
		b.WriteByte(' ')
		b.WriteString(r)
		b.WriteByte('\n')
	}
}

// Jump is the one rule of ours in a built-in chain.
type Jump struct {
	From ChainID
	To   string
}

// Rule is the jump spelled as iptables-save spells it, without "-A <chain> ".
func (j Jump) Rule() string { return "-j " + j.To }

// Jumps lists the jumps from built-in chains. Each must be its chain's first rule: a foreign
// ACCEPT or DNAT before it would take traffic away from the services.
func Jumps() []Jump {
	return []Jump{
		{ChainID{Filter, "INPUT"}, chainInput},
		{ChainID{Filter, "FORWARD"}, chainForward},
		{ChainID{Filter, "OUTPUT"}, chainOutput},
		{ChainID{NAT, "PREROUTING"}, chainServices},
		{ChainID{NAT, "OUTPUT"}, chainServices},
		{ChainID{NAT, "POSTROUTING"}, chainPostrouting},
	}
}

// Ruleset is a node's rules of one family.
type Ruleset struct {
	Chains map[ChainID]*Chain
	// UDP says where datagrams to an address belong now, which is what connection tracking must
	// not remember differently.
	UDP UDP
}

// UDP maps what a client addresses to the endpoints that may answer it. An address that is present
// without endpoints has none; of an address that is absent nothing is known.
type UDP struct {
	Addresses map[netip.AddrPort][]netip.AddrPort // cluster and external addresses
	NodePorts map[uint16][]netip.AddrPort         // at each address of the node
}

// Equal tells whether both say the same.
func (u UDP) Equal(other UDP) bool {
	return maps.EqualFunc(u.Addresses, other.Addresses, slices.Equal) &&
		maps.EqualFunc(u.NodePorts, other.NodePorts, slices.Equal)
}

// Empty tells whether nothing is addressed by UDP.
func (u UDP) Empty() bool { return len(u.Addresses)+len(u.NodePorts) == 0 }

// Text is the whole rule set as iptables-restore reads it: the chains sorted, then the jumps. It
// suits a namespace that has none of it yet, and golden files.
func (r *Ruleset) Text() string {
	var b strings.Builder
	ids := slices.SortedFunc(maps.Keys(r.Chains), ChainID.Compare)
	for _, table := range Tables() {
		b.WriteString("*" + table + "\n")
		for _, id := range ids {
			if id.Table == table {
				b.WriteString(":" + id.Name + " - [0:0]\n")
			}
		}
		for _, id := range ids {
			if id.Table == table {
				r.Chains[id].AppendTo(&b)
			}
		}
		for _, j := range Jumps() {
			if j.From.Table == table {
				b.WriteString("-I " + j.From.Name + " 1 " + j.Rule() + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Count is the number of rules in the set's chains.
func (r *Ruleset) Count() int {
	n := 0
	for _, c := range r.Chains {
		n += len(c.Rules)
	}
	return n
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func sortedUnique[T comparable](list []T, compare func(a, b T) int) []T {
	slices.SortFunc(list, compare)
	return slices.Compact(list)
}
