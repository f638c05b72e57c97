package proxy

import (
	"context"
	"errors"
	"slices"
	"time"

	"lockstep/proxy/rules"
)

// watch looks whether somebody else changed what the proxy made, and repairs it.
func (p *Proxy) watch(ctx context.Context) error {
	if err := p.repairLink(); err != nil {
		return err
	}
	if !p.backend.nft() {
		p.suspect = true
	}
	return p.check(ctx)
}

// check reads and repairs the rules if somebody else may have written, but not too often.
func (p *Proxy) check(ctx context.Context) error {
	g, err := p.readGeneration()
	if err != nil {
		return err
	}
	if g != p.generation {
		p.suspect = true
	}
	if !p.suspect || time.Now().Before(p.nextRead) {
		return nil
	}
	return p.repair(ctx)
}

// repairLink restores the link and what belongs to it.
func (p *Proxy) repairLink() error {
	noticed := time.Now()
	made, err := ensureLink(p.last)
	if err != nil {
		return err
	}
	if len(made) == 0 {
		return nil
	}
	d := Drift{Noticed: noticed, Took: time.Since(noticed), Total: len(made)}
	for _, m := range made[:min(len(made), maxFindings)] {
		d.Findings = append(d.Findings, Finding{Table: "link", Chain: LinkName, What: SettingAbsent, Rule: m})
	}
	p.report(d)
	return nil
}

// repair reads the rules and writes again what differs.
func (p *Proxy) repair(ctx context.Context) error {
	noticed := time.Now()
	have, blind, err := p.observeOver(ctx, p.applied)
	if err != nil {
		return err
	}
	findings := compare(have, p.applied, p.same)
	if blind {
		findings = append(findings, Finding{Table: rules.NAT, Chain: rules.Prefix + "*", What: RuleForeign, Rule: "one that only nft can print"})
	}
	c := toward(have, p.applied, p.same)
	if findings, c = p.yield(findings, c, noticed); c.empty() && !blind {
		return nil
	}
	if err := p.restore(ctx, c); err != nil {
		return err
	}
	p.report(Drift{Findings: findings[:min(len(findings), maxFindings)], Total: len(findings), Noticed: noticed, Took: time.Since(noticed)})
	return p.verify(ctx)
}

// observeOver reads the kernel. If a table cannot be read, all of our chains are first written again
// without looking, which removes the reason if it lies in one of them.
func (p *Proxy) observeOver(ctx context.Context, want map[rules.ChainID]*rules.Chain) (have observed, blind bool, err error) {
	have, err = p.observe(ctx)
	if !errors.Is(err, errUnreadable) {
		return have, false, err
	}
	c := between(nil, want)
	for _, j := range rules.Jumps() {
		copies := 0
		if p.backend.has(ctx, j) {
			copies = 1
		}
		c.jumps = append(c.jumps, jumpChange{j, copies})
	}
	if err := p.restore(ctx, c); err != nil {
		return observed{}, true, err
	}
	have, err = p.observe(ctx)
	return have, true, err
}

// yield leaves jumps where others keep putting their rule before them, for a while.
func (p *Proxy) yield(findings []Finding, c change, now time.Time) ([]Finding, change) {
	moved := func(f Finding) bool { return f.What == JumpMoved }
	if !slices.ContainsFunc(findings, moved) {
		return findings, c
	}
	p.displaced = slices.DeleteFunc(p.displaced, func(t time.Time) bool { return now.Sub(t) > displacedWindow })
	if len(p.displaced) < displacedMost {
		p.displaced = append(p.displaced, now)
		return findings, c
	}
	p.suspect = true // look again when the window has passed
	p.log.Warn("another program keeps its rules before ours", "times", len(p.displaced), "within", displacedWindow)
	c.jumps = slices.DeleteFunc(c.jumps, func(j jumpChange) bool { return j.copies == 1 })
	return slices.DeleteFunc(findings, moved), c
}

// verify reads back what a repair wrote. A chain that still reads differently is spelled so by
// this iptables, and is not drift; otherwise it would be repaired for ever.
func (p *Proxy) verify(ctx context.Context) error {
	written, doubtful := p.generation, p.suspect
	have, err := p.observe(ctx)
	if err != nil {
		return err
	}
	g, err := p.readGeneration()
	if err != nil {
		return err
	}
	if doubtful || p.generation != written || g != written {
		p.suspect = true // somebody wrote meanwhile, also jumps: that is to be repaired, and is no evidence of spelling
		return nil
	}
	for id, chain := range p.applied {
		list, ok := have.chains[id]
		if ok && len(list) == len(chain.Rules) && !p.same(chain, list) {
			p.spelled[id] = spelling{chain, list}
			p.log.Warn("iptables spells a chain differently", "chain", id.Name, "table", id.Table)
		}
	}
	for id, s := range p.spelled {
		if p.applied[id] != s.want {
			delete(p.spelled, id)
		}
	}
	return nil
}

func (p *Proxy) report(d Drift) {
	p.metrics.repairs.Inc()
	lines := make([]string, len(d.Findings))
	for i, f := range d.Findings {
		lines[i] = f.String()
	}
	p.log.Warn("rules repaired", "findings", lines, "total", d.Total, "took", d.Took)
	if p.opts.Drift != nil {
		p.opts.Drift(d)
	}
}
