package proxy

import (
	"fmt"
	"slices"
	"time"

	"lockstep/proxy/rules"
)

// Drift is the evidence of one repair: how the kernel differed from what the proxy had made.
type Drift struct {
	// Family of the rules that differed.
	Family rules.Family
	// Findings are sorted by where they are; at most maxFindings of them.
	Findings []Finding
	// Total is the number of findings, also of those left out of the list.
	Total int
	// Noticed is when the difference was seen, Took the time from there to the repair's end.
	Noticed time.Time
	Took    time.Duration
}

// maxFindings bounds a report: a flush of 10,000 services is evident from its first lines.
const maxFindings = 20

// Finding is one difference.
type Finding struct {
	Table string // "nat", "filter"; "link" for the service network's link and its settings
	Chain string // or the link's name
	What  What
	Rule  string // the rule in question, spelled as iptables-save does; empty for a whole chain
}

// What kind of difference a finding is.
type What string

// The kinds of differences.
const (
	ChainMissing  What = "chain missing"
	ChainUnknown  What = "unknown chain with our prefix"
	RuleMissing   What = "rule missing"
	RuleForeign   What = "foreign rule"
	RulesMoved    What = "rules reordered"
	JumpMissing   What = "jump missing"
	JumpMoved     What = "jump not first"
	JumpRepeated  What = "jump more than once"
	SettingAbsent What = "setting missing"
)

// String is one line, such as "nat LOCKSTEP-SERVICES: foreign rule: -j DROP".
func (f Finding) String() string {
	s := fmt.Sprintf("%s %s: %s", f.Table, f.Chain, f.What)
	if f.Rule != "" {
		s += ": " + f.Rule
	}
	return s
}

// compare lists how the observed rules differ from the applied ones; empty if they do not.
func compare(have observed, applied map[rules.ChainID]*rules.Chain, same func(*rules.Chain, []string) bool) []Finding {
	var out []Finding
	for id, chain := range applied {
		list, ok := have.chains[id]
		switch {
		case !ok:
			out = append(out, Finding{id.Table, id.Name, ChainMissing, ""})
		case !same(chain, list):
			out = append(out, compareChain(chain, list)...)
		}
	}
	for id, list := range have.chains {
		if applied[id] == nil && (len(list) > 0 || !have.held[id]) {
			out = append(out, Finding{id.Table, id.Name, ChainUnknown, ""})
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return rules.ChainID{Table: a.Table, Name: a.Chain}.Compare(rules.ChainID{Table: b.Table, Name: b.Chain})
	})
	return append(compareJumps(have), out...)
}

func compareJumps(have observed) []Finding {
	var out []Finding
	for _, j := range rules.Jumps() {
		list := have.builtins[j.From]
		what := What("")
		switch n := count(list, j.Rule()); {
		case n == 0:
			what = JumpMissing
		case n > 1:
			what = JumpRepeated
		case list[0] != j.Rule():
			what = JumpMoved
		default:
			continue
		}
		out = append(out, Finding{j.From.Table, j.From.Name, what, j.Rule()})
	}
	return out
}

func compareChain(chain *rules.Chain, have []string) []Finding {
	var out []Finding
	left := map[string]int{}
	for _, r := range have {
		left[r]++
	}
	for _, r := range chain.Rules {
		if left[r]--; left[r] < 0 {
			out = append(out, Finding{chain.Table, chain.Name, RuleMissing, r})
		}
	}
	for _, r := range have {
		if left[r] > 0 {
			left[r]--
			out = append(out, Finding{chain.Table, chain.Name, RuleForeign, r})
		}
	}
	if len(out) == 0 {
		out = append(out, Finding{chain.Table, chain.Name, RulesMoved, ""})
	}
	return out
}
