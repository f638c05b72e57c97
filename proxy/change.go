package proxy

import (
	"slices"
	"strings"

	"lockstep/proxy/rules"
)

// change is one step from what the kernel has to what it shall have.
type change struct {
	write  []*rules.Chain  // created if absent, else replaced, sorted
	remove []rules.ChainID // sorted
	jumps  []jumpChange    // in the order of rules.Jumps
}

// jumpChange puts a jump first in its chain.
type jumpChange struct {
	rules.Jump
	copies int // how many there are, to be deleted first
}

func (c change) empty() bool { return len(c.write)+len(c.remove)+len(c.jumps) == 0 }

// between is the change from one rule set of ours to the next, the jumps being in place.
func between(have, want map[rules.ChainID]*rules.Chain) change {
	var c change
	for id, chain := range want {
		if old := have[id]; old == nil || !old.Equal(chain) {
			c.write = append(c.write, chain)
		}
	}
	for id := range have {
		if want[id] == nil {
			c.remove = append(c.remove, id)
		}
	}
	c.sort()
	return c
}

// toward is the change from what was observed. A chain that same calls equal is left alone.
func toward(have observed, want map[rules.ChainID]*rules.Chain, same func(want *rules.Chain, have []string) bool) change {
	var c change
	for id, chain := range want {
		if list, ok := have.chains[id]; !ok || !same(chain, list) {
			c.write = append(c.write, chain)
		}
	}
	for id, list := range have.chains {
		switch {
		case want[id] != nil:
		case !have.held[id]:
			c.remove = append(c.remove, id)
		case len(list) > 0:
			c.write = append(c.write, &rules.Chain{ChainID: id})
		}
	}
	for _, j := range rules.Jumps() {
		list := have.builtins[j.From]
		copies := count(list, j.Rule())
		if copies != 1 || list[0] != j.Rule() {
			c.jumps = append(c.jumps, jumpChange{j, copies})
		}
	}
	c.sort()
	return c
}

func (c *change) sort() {
	slices.SortFunc(c.write, func(a, b *rules.Chain) int { return a.Compare(b.ChainID) })
	slices.SortFunc(c.remove, rules.ChainID.Compare)
}

// text is the change as `iptables-restore --noflush` reads it: there a chain that is declared is
// created or emptied, and nothing else is touched. Each table is one transaction; their number is
// the second result.
func (c change) text() (text string, tables uint32) {
	var b strings.Builder
	for _, table := range rules.Tables() {
		var t strings.Builder
		for _, chain := range c.write {
			if chain.Table == table {
				t.WriteString(":" + chain.Name + " - [0:0]\n")
			}
		}
		for _, id := range c.remove {
			if id.Table == table {
				t.WriteString(":" + id.Name + " - [0:0]\n")
			}
		}
		for _, chain := range c.write {
			if chain.Table == table {
				chain.AppendTo(&t)
			}
		}
		for _, j := range c.jumps {
			if j.From.Table == table {
				t.WriteString(strings.Repeat("-D "+j.From.Name+" "+j.Rule()+"\n", j.copies))
				t.WriteString("-I " + j.From.Name + " 1 " + j.Rule() + "\n")
			}
		}
		for _, id := range c.remove {
			if id.Table == table {
				t.WriteString("-X " + id.Name + "\n")
			}
		}
		if t.Len() > 0 {
			b.WriteString("*" + table + "\n" + t.String() + "COMMIT\n")
			tables++
		}
	}
	return b.String(), tables
}

func count(list []string, item string) int {
	n := 0
	for _, s := range list {
		if s == item {
			n++
		}
	}
	return n
}
