package render

import (
	"context"

	"lockstep/kinds"
	"lockstep/sync/manifest"
	"lockstep/sync/origin"
)

// Reader reads revisions of one source. As a manifest.Reader, it parses what has changed, and may be used by several
// goroutines, one after the other.
type Reader struct {
	renderers []Renderer
	manifests *manifest.Reader
}

// NewReader returns a reader that has read nothing yet. What all renderers leave is not read.
func NewReader(renderers ...Renderer) *Reader {
	return &Reader{renderers: renderers, manifests: manifest.NewReader()}
}

// Object is one object that a source states, with where: a file of the source, whoever made the manifest of it.
type Object struct {
	*manifest.Object
	Origin origin.Origin
}

// Set is everything a revision states. It is never changed.
type Set struct {
	// Objects are in the order of the manifest.Set.
	Objects []Object
	// LeftOut are the objects that were skipped for their kinds.
	LeftOut manifest.LeftOut

	read    *manifest.Set
	origins origins
}

// Read returns the objects that the files state together, or all errors in them, each at its origin; then the set is nil.
// No files give an empty set. When ctx ends it returns soon, and what it returns says nothing of the files.
func (r *Reader) Read(ctx context.Context, files []manifest.File, opts manifest.Options) (*Set, manifest.Errors) {
	texts, from := make([]manifest.File, 0, len(files)), origins{}
	var errs manifest.Errors
	for _, renderer := range r.renderers {
		made, left, wrong := renderer.Render(ctx, files)
		for _, m := range made {
			texts = append(texts, m.File)
			if m.Origin != nil {
				from[m.Path] = m.Origin
			}
		}
		files, errs = left, append(errs, wrong...)
	}
	read, wrong := r.manifests.Read(ctx, texts, opts)
	for _, e := range wrong {
		errs = append(errs, from.place(e))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	set := &Set{Objects: make([]Object, len(read.Objects)), LeftOut: read.LeftOut, read: read, origins: from}
	for i := range read.Objects {
		o := &read.Objects[i]
		set.Objects[i] = Object{o, from.of(o.File, o.Line)}
	}
	return set, nil
}

// ErrorAt returns an error about a field of an object of the set, at the field's origin. It may read the file again; where
// that fails, the place is the object's.
func (s *Set) ErrorAt(k kinds.Key, field, message string) *manifest.Error {
	return s.origins.place(s.read.ErrorAt(k, field, message))
}

// origins say where lines come from, by the path of the manifest; one that is a file of the source has none.
type origins map[string]func(line int) origin.Origin

func (from origins) of(path string, line int) origin.Origin {
	if at := from[path]; at != nil {
		return at(line)
	}
	return origin.Origin{File: path, Line: line}
}

// place puts an error where the line at fault comes from; in a line that was rendered a column means nothing.
func (from origins) place(e *manifest.Error) *manifest.Error {
	if from[e.File] == nil || e.Line == 0 {
		return e
	}
	at, placed := from.of(e.File, e.Line), *e
	placed.File, placed.Line, placed.Column = at.File, at.Line, 1
	return &placed
}
