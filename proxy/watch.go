package proxy

import (
	"context"
	"errors"
	"slices"
	"time"

	"lockstep/proxy/rules"
)

// watch looks whether somebody else changed what the proxy made, and repairs it.
func (k *keeper) watch(ctx context.Context) error {
	if err := k.repairLink(); err != nil {
		return err
	}
	if !k.tables.counts() {
		k.suspect = true
	}
	return k.check(ctx)
}

// check reads and repairs the rules if somebody else may have written, but not too often.
func (k *keeper) check(ctx context.Context) error {
	if err := k.look(); err != nil {
		return err
	}
	if !k.doubts() || time.Now().Before(k.nextRead) {
		return nil
	}
	return k.repair(ctx)
}

// repairLink restores the link and what belongs to it.
func (k *keeper) repairLink() error {
	noticed := time.Now()
	ensure, moved := k.kernel.ensureLink, k.moves.count()
	if moved == k.moved {
		ensure = k.kernel.ensureSettings
	}
	made, err := ensure(k.last)
	if err != nil {
		return err
	}
	k.moved = moved
	if len(made) == 0 {
		return nil
	}
	d := Drift{Family: k.family, Noticed: noticed, Took: time.Since(noticed), Total: len(made)}
	for _, m := range made[:min(len(made), maxFindings)] {
		d.Findings = append(d.Findings, Finding{Table: "link", Chain: LinkName, What: SettingAbsent, Rule: m})
	}
	k.report(d)
	return nil
}

// repair reads the rules and writes again what differs.
func (k *keeper) repair(ctx context.Context) error {
	noticed := time.Now()
	have, blind, err := k.observeOver(ctx, k.applied)
	if err != nil {
		return err
	}
	findings := compare(have, k.applied, k.same)
	if blind {
		findings = append(findings, Finding{
			Table: rules.NAT,
			Chain: rules.Prefix + "*",
			What:  RuleForeign,
			Rule:  "one that only nft can print",
		})
	}
	c := toward(have, k.applied, k.same)
	if findings, c = k.yield(findings, c, noticed); c.empty() && !blind {
		return nil
	}
	if err := k.restore(ctx, c); err != nil {
		return err
	}
	k.report(Drift{
		Family: k.family, Findings: findings[:min(len(findings), maxFindings)], Total: len(findings), Noticed: noticed,
		Took: time.Since(noticed),
	})
	return k.verify(ctx)
}

// observeOver reads the kernel. If a table cannot be read, all of our chains are first written again
// without looking, which removes the reason if it lies in one of them.
func (k *keeper) observeOver(ctx context.Context, want map[rules.ChainID]*rules.Chain) (have observed, blind bool, err error) {
	have, err = k.observe(ctx)
	if !errors.Is(err, errUnreadable) {
		return have, false, err
	}
	c := between(nil, want)
	for _, j := range rules.Jumps() {
		copies := 0
		if k.tables.has(ctx, j) {
			copies = 1
		}
		c.jumps = append(c.jumps, jumpChange{j, copies})
	}
	if err := k.restore(ctx, c); err != nil {
		return observed{}, true, err
	}
	have, err = k.observe(ctx)
	return have, true, err
}

// yield leaves jumps where others keep putting their rule before them, for a while.
func (k *keeper) yield(findings []Finding, c change, now time.Time) ([]Finding, change) {
	moved := func(f Finding) bool { return f.What == JumpMoved }
	if !slices.ContainsFunc(findings, moved) {
		return findings, c
	}
	k.displaced = slices.DeleteFunc(k.displaced, func(t time.Time) bool { return now.Sub(t) > displacedWindow })
	if len(k.displaced) < displacedMost {
		k.displaced = append(k.displaced, now)
		return findings, c
	}
	k.suspect = true // look again when the window has passed
	k.log.Warn("another program keeps its rules before ours", "times", len(k.displaced), "within", displacedWindow)
	c.jumps = slices.DeleteFunc(c.jumps, func(j jumpChange) bool { return j.copies == 1 })
	return slices.DeleteFunc(findings, moved), c
}

// verify reads back what a repair wrote. A chain that still reads differently is spelled so by
// this iptables, and is not drift; otherwise it would be repaired for ever.
func (k *keeper) verify(ctx context.Context) error {
	foreign, doubtful := k.transactions.foreign, k.doubts()
	have, err := k.observe(ctx)
	if err != nil {
		return err
	}
	if err := k.look(); err != nil {
		return err
	}
	if doubtful || k.transactions.foreign != foreign {
		k.suspect = true // somebody wrote meanwhile, also jumps: that is to be repaired, and is no evidence of spelling
		return nil
	}
	for id, chain := range k.applied {
		list, ok := have.chains[id]
		if ok && len(list) == len(chain.Rules) && !k.same(chain, list) {
			k.spelled[id] = spelling{chain, list}
			k.log.Warn("iptables spells a chain differently", "chain", id.Name, "table", id.Table)
		}
	}
	for id, s := range k.spelled {
		if k.applied[id] != s.want {
			delete(k.spelled, id)
		}
	}
	return nil
}

func (k *keeper) report(d Drift) {
	k.metrics.repairs.Inc()
	lines := make([]string, len(d.Findings))
	for i, f := range d.Findings {
		lines[i] = f.String()
	}
	k.log.Warn("rules repaired", "findings", lines, "total", d.Total, "took", d.Took)
	if k.drift != nil {
		k.drift(d)
	}
}
