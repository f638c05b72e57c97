package rules

import (
	"fmt"
	"slices"
	"testing"
)

// probe is a part that shows where its rules come to stand.
type probe struct{}

func (probe) fill(b *board, _ setting, _ Input) {
	for h := range hooks {
		b.add(h, fmt.Sprint("probe ", int(h)))
	}
	b.own(&Chain{ChainID{NAT, Prefix + "PROBE"}, []string{"own"}})
}

// TestHooks: each hook is in one chain, in the order of its number; what another part adds changes no rule of those before.
func TestHooks(t *testing.T) {
	c := NewCompiler(IPv4)
	before := c.Compile(Input{LocalhostPorts: true})
	c.parts = append(c.parts, probe{})
	after := c.Compile(Input{LocalhostPorts: true})
	if len(after.Chains) != len(before.Chains)+1 {
		t.Errorf("%d chains became %d", len(before.Chains), len(after.Chains))
	}
	next := 0
	for _, p := range layout() {
		for _, rule := range after.Chains[p.ChainID].Rules {
			if rule == fmt.Sprint("probe ", next) {
				next++
			}
		}
		others := slices.DeleteFunc(slices.Clone(after.Chains[p.ChainID].Rules), func(r string) bool {
			return len(r) > 6 && r[:6] == "probe "
		})
		if !slices.Equal(others, before.Chains[p.ChainID].Rules) {
			t.Errorf("%s has %q, had %q", p.Name, others, before.Chains[p.ChainID].Rules)
		}
	}
	if next != int(hooks) {
		t.Errorf("%d hooks are in chains, of %d", next, hooks)
	}
}
