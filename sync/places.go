package sync

import (
	"reflect"
	"sync"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/forge"
	"lockstep/sync/source"
)

// place is where one or several sources are read from.
type place struct {
	sources []v1alpha1.Source
	watcher source.Watcher
	// forges are where each source's verdict is told, by its name; a source without one is told nowhere.
	forges map[string]forge.Forge
}

// places are those of all sources, as they were last known. While somebody leads only the leader changes them: what a
// watcher keeps on the disk has one user at a time.
type places struct {
	opts source.Options

	mu   sync.Mutex
	led  bool
	list []*place
}

// lead takes the places for the leader, or gives them back.
func (p *places) lead(led bool) {
	p.mu.Lock()
	p.led = led
	p.mu.Unlock()
}

// leads says whether this process leads.
func (p *places) leads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.led
}

// of returns the places of sources; while somebody leads, as the leader has them.
func (p *places) of(sources []v1alpha1.Source) []*place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.led {
		p.change(sources)
	}
	return p.list
}

// follow makes the places those of sources, for the leader.
func (p *places) follow(sources []v1alpha1.Source) []*place {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change(sources)
	return p.list
}

// change keeps the places of which no source has changed; the list itself is never changed.
func (p *places) change(sources []v1alpha1.Source) {
	var list []*place
	var watched []v1alpha1.Source
	forges := map[string]forge.Forge{}
	for _, s := range sources {
		f, err := usable(s)
		if err != nil {
			list = append(list, p.keep([]v1alpha1.Source{s}, nil, func() source.Watcher { return source.Refused(s, err) }))
			continue
		}
		watched = append(watched, s)
		if f != nil {
			forges[s.Name] = f
		}
	}
	for _, together := range source.Places(watched) {
		list = append(list, p.keep(together, forges, func() source.Watcher { return source.New(together, p.opts) }))
	}
	p.list = list
}

// keep returns the place that those sources have, or a new one.
func (p *places) keep(sources []v1alpha1.Source, forges map[string]forge.Forge, watcher func() source.Watcher) *place {
	for _, old := range p.list {
		if reflect.DeepEqual(old.sources, sources) {
			return old
		}
	}
	n := &place{sources: sources, watcher: watcher(), forges: map[string]forge.Forge{}}
	for _, s := range sources {
		if f := forges[s.Name]; f != nil {
			n.forges[s.Name] = f
		}
	}
	return n
}

// usable returns the forge of a source, nil for none, or why the source cannot be followed.
func usable(s v1alpha1.Source) (forge.Forge, error) {
	if err := source.Check(s); err != nil {
		return nil, err
	}
	return forge.New(s)
}
