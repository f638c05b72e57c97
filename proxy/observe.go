package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lockstep/proxy/rules"
)

// observed is what the kernel has of ours, and the built-in chains that have a jump of ours.
type observed struct {
	chains   map[rules.ChainID][]string
	builtins map[rules.ChainID][]string
	// held are chains of ours that foreign rules lead to: they can be emptied, not deleted.
	held map[rules.ChainID]bool
}

// observe reads all tables.
func observe(ctx context.Context, from tables) (observed, error) {
	o := observed{chains: map[rules.ChainID][]string{}, builtins: map[rules.ChainID][]string{}, held: map[rules.ChainID]bool{}}
	for _, table := range rules.Tables() {
		text, err := from.save(ctx, table)
		if err != nil {
			return observed{}, err
		}
		if strings.Contains(text, unreadable) {
			return observed{}, fmt.Errorf("%w: table %s", errUnreadable, table)
		}
		o.parse(text)
	}
	return o, nil
}

// unreadable is all that iptables-nft-save prints of a table, with success, if one of its rules was
// written by nft and has no spelling in iptables.
const unreadable = "is incompatible, use 'nft' tool"

var errUnreadable = errors.New("cannot read rules that only nft can print")

// parse adds what iptables-save printed. Chains that are neither ours nor carry a jump are passed
// over.
func (o observed) parse(text string) {
	jumps := rules.Jumps()
	wanted := func(id rules.ChainID) map[rules.ChainID][]string {
		if strings.HasPrefix(id.Name, rules.Prefix) {
			return o.chains
		}
		if slices.ContainsFunc(jumps, func(j rules.Jump) bool { return j.From == id }) {
			return o.builtins
		}
		return nil
	}
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			id := rules.ChainID{Table: table, Name: name}
			if m := wanted(id); m != nil && m[id] == nil {
				m[id] = []string{}
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			id := rules.ChainID{Table: table, Name: name}
			if m := wanted(id); m != nil {
				m[id] = append(m[id], rule)
			}
			if to := target(rule); strings.HasPrefix(to, rules.Prefix) && !strings.HasPrefix(name, rules.Prefix) &&
				!slices.Contains(jumps, rules.Jump{From: id, To: to}) {
				o.held[rules.ChainID{Table: table, Name: to}] = true
			}
		}
	}
}

// target is where a rule without options of its target leads to; else something that is no chain.
func target(rule string) string {
	i := strings.LastIndex(rule, " ")
	return rule[i+1:]
}
