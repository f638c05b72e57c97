package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"lockstep/proxy"
	"lockstep/proxy/load"
	"lockstep/proxy/rules"
)

// services measures the proxy's rules of many services with two endpoints each: all of them, and one endpoint's change.
// The bound is one iptables-restore of the same text, in a namespace of its own with the same rules.
func services(ctx context.Context, n *node) ([]Row, error) {
	var rows []Row
	for _, c := range []struct {
		services, loads, changes int
		row                      func(name, unit string, value, bound float64) Row
	}{
		{n.size(1000, 50), n.times(10), n.times(20),
			func(name, unit string, value, bound float64) Row { return within(name, unit, value, bound, 2) }},
		{n.size(10_000, 100), n.times(3), n.times(10), beside},
	} {
		p, err := newPair(ctx)
		if err != nil {
			return nil, err
		}
		loads, loadBound, err := alternate(ctx, c.loads,
			func(ctx context.Context) (float64, error) { return p.load(ctx, c.services) },
			func(ctx context.Context) (float64, error) { return p.loadBound(ctx, c.services) })
		if err != nil {
			return nil, err
		}
		changes, changeBound, err := alternate(ctx, c.changes, p.change, p.changeBound)
		p.close()
		if err != nil {
			return nil, err
		}
		rows = append(rows,
			c.row(fmt.Sprintf("%d services x 2 endpoints, full load", c.services), "s", loads, loadBound),
			c.row(fmt.Sprintf("%d services x 2 endpoints, one endpoint's change", c.services), "s", changes, changeBound))
	}
	return rows, nil
}

// pair is a proxy in one namespace, and its bound in another.
type pair struct {
	ours, bound *namespace
	restore     string // path of the backend's restore command
	proxy       *proxy.Proxy
	in          rules.Input
	compiler    *rules.Compiler // of the bound's text
	applied     *rules.Ruleset
	version     int
}

func newPair(ctx context.Context) (*pair, error) {
	p := &pair{}
	_, restore, err := proxy.Backend(ctx)
	p.restore = restore
	return p, err
}

func (p *pair) close() {
	for _, n := range []*namespace{p.ours, p.bound} {
		if n != nil {
			n.close()
		}
	}
}

// load measures the proxy's first synchronisation in an empty namespace.
func (p *pair) load(ctx context.Context, services int) (float64, error) {
	p.close()
	var err error
	if p.ours, err = newNamespace(); err != nil {
		return 0, err
	}
	if p.bound, err = newNamespace(); err != nil {
		return 0, err
	}
	p.in = load.Input(services, 2)
	if p.proxy, err = proxy.New(proxy.Options{State: func() rules.Input { return p.in }}); err != nil {
		return 0, err
	}
	return p.ours.do(ctx, timed(p.proxy.Sync))
}

func (p *pair) loadBound(ctx context.Context, _ int) (float64, error) {
	p.compiler = rules.NewCompiler(rules.IPv4)
	p.applied = p.compiler.Compile(p.in)
	text := p.applied.Text()
	return p.bound.do(ctx, timed(func(ctx context.Context) error { return p.restoreText(ctx, text) }))
}

// change measures the proxy's synchronisation after one endpoint of a service in the middle moved.
func (p *pair) change(ctx context.Context) (float64, error) {
	p.version++
	p.in = load.Change(p.in, len(p.in.Services)/2, p.version)
	return p.ours.do(ctx, timed(p.proxy.Sync))
}

// changeBound measures the same for a program that knows already which chain to write.
func (p *pair) changeBound(ctx context.Context) (float64, error) {
	before := p.applied.Chains
	p.applied = p.compiler.Compile(p.in)
	var text strings.Builder
	chains := 0
	for id, chain := range p.applied.Chains {
		if old := before[id]; old == nil || !old.Equal(chain) {
			fmt.Fprintf(&text, "*%s\n:%s - [0:0]\n", id.Table, id.Name)
			chain.AppendTo(&text)
			text.WriteString("COMMIT\n")
			chains++
		}
	}
	if chains != 1 {
		return 0, fmt.Errorf("cannot compare with one chain: %d changed", chains)
	}
	return p.bound.do(ctx, timed(func(ctx context.Context) error { return p.restoreText(ctx, text.String()) }))
}

func (p *pair) restoreText(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, p.restore, "--noflush", "-w", "30")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(text), &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot run %s: %w: %s", p.restore, err, stderr.String())
	}
	return nil
}
