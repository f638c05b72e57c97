package sync

import (
	"context"
	"slices"
	"strings"
	"sync"

	"lockstep/sync/manifest"
	"lockstep/sync/plan"
	"lockstep/sync/render"
	"lockstep/sync/source"
	"lockstep/sync/verdict"
)

// reader turns the revisions of one source into objects, keeping what did not change from the revision before.
type reader struct{ render *render.Reader }

// reading is what a revision came to: objects, or errors that refuse it, or unread, why it cannot be told now.
type reading struct {
	objects []plan.Object
	set     *render.Set // nil where it is refused
	errors  []string
	unread  error
}

func newReader() *reader { return &reader{render.NewReader(render.All()...)} }

func (r *reader) read(ctx context.Context, rev *source.Revision, ignoreKinds []string) reading {
	var out reading
	var mu sync.Mutex
	files := make([]manifest.File, len(rev.Files))
	for i, f := range rev.Files {
		files[i] = manifest.File{Path: f.Path, Hash: f.Hash, Data: func() ([]byte, error) {
			data, err := f.Read()
			if err != nil {
				mu.Lock()
				out.unread = err
				mu.Unlock()
			}
			return data, err
		}}
	}
	set, errs := r.render.Read(ctx, files, manifest.Options{IgnoreKinds: ignoreKinds})
	if out.unread == nil {
		out.unread = ctx.Err()
	}
	if out.unread != nil {
		return out
	}
	for _, p := range rev.Problems {
		out.errors = append(out.errors, p.Error())
	}
	for _, e := range errs {
		out.errors = append(out.errors, e.Error())
	}
	if len(out.errors) > 0 {
		return out
	}
	out.set, out.objects = set, make([]plan.Object, len(set.Objects))
	for i, o := range set.Objects {
		out.objects[i] = plan.Object{Key: o.Key, Stated: o.Stated, Origin: o.Origin}
	}
	return out
}

// locate words problems with the position of the field that each is about.
func (r reading) locate(problems plan.Problems) []string {
	texts := make([]string, len(problems))
	for i, p := range r.place(problems, verdict.MaxErrors) {
		texts[i] = p.Error()
	}
	return texts
}

// place gives the first problems the lines and columns of their fields, which costs parsing a file for each.
func (r reading) place(problems plan.Problems, first int) plan.Problems {
	placed := slices.Clone(problems)
	for i, p := range placed {
		if r.set != nil && p.Field != "" && i < first {
			if at := r.set.ErrorAt(p.Key, p.Field, ""); at.Line > 0 {
				p.File, p.Line, p.Column = at.File, at.Line, at.Column
			}
		}
		placed[i] = p
	}
	return placed
}

func lines(texts []string) string { return strings.Join(texts, "\n") }
