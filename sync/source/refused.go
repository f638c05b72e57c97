package source

import (
	"context"

	"lockstep/kinds/v1alpha1"
)

// Refused is the watcher of a source that cannot be watched: it yields why.
func Refused(s v1alpha1.Source, why error) Watcher { return refusal{s, why} }

type refusal struct {
	source v1alpha1.Source
	why    error
}

// Run implements Watcher.
func (r refusal) Run(ctx context.Context, yield func(Update)) error {
	yield(Update{Source: r.source.Name, Err: r.why})
	<-ctx.Done()
	return nil
}

// Look implements Watcher.
func (r refusal) Look(context.Context, string) (*Revision, error) { return nil, r.why }

// Poke implements Watcher: there is nothing to look at.
func (refusal) Poke() {}

// Sources implements Watcher.
func (r refusal) Sources() []v1alpha1.Source { return []v1alpha1.Source{r.source} }
