package daemonset

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/controller/daemon/util"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
)

// roll replaces pods of other templates, as many at once as the strategy allows: once nothing is left that is to go in any case.
func (d *decision) roll() error {
	desired := 0
	for _, p := range d.places {
		if len(p.drops) > 0 {
			return nil
		}
		if p.wanted {
			desired++
		}
	}
	unavailable, err := util.UnavailableCount(d.ds, desired)
	if err != nil {
		return loop.Stall(fmt.Errorf("cannot read maxUnavailable of %v: %w", kinds.KeyOf(d.ds), err))
	}
	surge, err := util.SurgeCount(d.ds, desired)
	if err != nil {
		return loop.Stall(fmt.Errorf("cannot read maxSurge of %v: %w", kinds.KeyOf(d.ds), err))
	}
	if surge > 0 {
		d.rollOver(surge, desired)
	} else {
		// Percentages of a few nodes may come to nothing at all, and one has to go first.
		d.rollThrough(max(1, unavailable))
	}
	return nil
}

// rollThrough deletes pods of other templates: those that are not available, and of the others while no more than so many
// nodes are without an available pod. manage makes the new ones where they were.
func (d *decision) rollThrough(most int) {
	unavailable := 0
	var candidates []*place
	for _, p := range d.places {
		if p.idle() {
			continue
		}
		fresh, stale, ok := d.templates(p)
		switch {
		case !ok || (fresh == nil) == (stale == nil):
			unavailable++
		case fresh != nil:
			if !d.available(fresh) {
				unavailable++
			}
		case !d.available(stale):
			p.drop(stale, "old template, and not available", nil)
			unavailable++
		default:
			candidates = append(candidates, p)
		}
	}
	for _, p := range candidates[:min(len(candidates), max(0, most-unavailable))] {
		_, stale, _ := d.templates(p)
		p.drop(stale, fmt.Sprintf("old template: %d of at most %d unavailable", unavailable, most), nil)
		unavailable++
	}
}

// rollOver makes new pods beside those of other templates, on no more than so many nodes at once where the old one is
// available, and deletes an old one when the new one is. Nodes that are not to have a pod any more lose theirs while enough of
// the others have one.
func (d *decision) rollOver(most, desired int) {
	surge, available := 0, 0
	var candidates, leaving []*place
	for _, p := range d.places {
		if p.idle() {
			continue
		}
		fresh, stale, ok := d.templates(p)
		if !ok {
			surge++
			continue
		}
		if first := cmp.Or(stale, fresh); first != nil && d.available(first) {
			available++
		}
		switch {
		case stale == nil:
		case fresh != nil && d.available(fresh):
			p.drop(stale, "replaced", nil)
		case fresh != nil:
			surge++
		case !d.available(stale) && !p.wanted:
			p.drop(stale, "old template, not available, and not to be on this node", nil)
		case !d.available(stale):
			p.create = "old template, and not available"
		case !p.wanted:
			leaving = append(leaving, p)
		default:
			candidates = append(candidates, p)
		}
	}
	for _, p := range leaving[:min(len(leaving), max(0, available-desired))] {
		_, stale, _ := d.templates(p)
		p.drop(stale, "not to be on this node, and enough others are available", nil)
	}
	for _, p := range candidates[:min(len(candidates), max(0, most-surge))] {
		p.create = fmt.Sprintf("old template: %d of at most %d more pods", surge, most)
		surge++
	}
}

// idle says that there is nothing on a node, and is to be nothing.
func (p *place) idle() bool { return len(p.pods) == 0 && !p.wanted }

// templates returns what is left on a node of the present template, and of another; not ok: more than one of either.
func (d *decision) templates(p *place) (fresh, stale *corev1.Pod, ok bool) {
	for _, pod := range p.left() {
		one := &stale
		if d.updated(pod) {
			one = &fresh
		}
		if *one != nil {
			return nil, nil, false
		}
		*one = pod
	}
	return fresh, stale, true
}
