package manifest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// maxAllErrors bounds the errors of a revision: a few megabytes of text that nobody reads to the end.
const maxAllErrors = 100 * MaxErrors

// maxParsed bounds the text that is parsed at the same time, unless it is one larger file: a tree takes a few hundred
// times the bytes of a text that is made for it.
const maxParsed = 1 << 20

// Reader reads revisions of one source. It keeps what the files of the last two revisions came to, by their hash, so
// that only files whose content has changed are parsed and validated, also after going forth and back once. Its memory
// is bounded by the limits on two revisions. It may be used by several goroutines, one after the other.
type Reader struct {
	mu     sync.Mutex
	round  int
	parsed map[content]*parsed
}

// content identifies what a file's readings depend on.
type content struct {
	hash string
	as   string // "json", "yaml" or "kustomization": how the name makes it be read
}

type parsed struct {
	readings []reading
	round    int   // when it was last wanted
	size     int64 // of the file, in bytes
	memory   int64 // of its objects, in bytes
}

// NewReader returns a reader that has read nothing yet.
func NewReader() *Reader { return &Reader{parsed: map[content]*parsed{}} }

// Read returns the objects that the files state together, or all errors in them, in order of file and position; then the
// set is nil. No files give an empty set. The files' order is of no matter. When ctx ends it returns soon, and what it returns
// says nothing of the files.
func (r *Reader) Read(ctx context.Context, files []File, opts Options) (*Set, Errors) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++

	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	found := make([]*parsed, len(files))
	errs := r.parse(ctx, files, found)

	set := &Set{files: files, Objects: make([]Object, 0, len(files)), LeftOut: LeftOut{}, refused: map[string]bool{}}
	ignored := patternsOf(opts.IgnoreKinds)
	for i, p := range found {
		if p != nil {
			errs = append(errs, set.add(files[i].Path, p.readings, ignored)...)
		}
	}
	r.forget()

	if n := len(set.Objects); n > MaxObjects {
		over := set.Objects[MaxObjects]
		errs = append(errs, &Error{File: over.File, Line: over.Line, Column: over.Column,
			Message: fmt.Sprintf("the source has more than %d objects", MaxObjects)})
	}
	slices.SortFunc(set.Objects, compareObjects)
	errs = append(errs, set.conflicts()...)
	if len(errs) > 0 {
		slices.SortStableFunc(errs, compareErrors)
		if n := len(errs); n > maxAllErrors {
			errs = append(errs[:maxAllErrors], &Error{
				File:    errs[maxAllErrors-1].File,
				Message: fmt.Sprintf("%d more errors in this and later files", n-maxAllErrors),
			})
		}
		tellSkipping(errs, set.refused, opts.IgnoreKinds)
		return nil, errs
	}
	return set, nil
}

// parse fills in what each file came to, parsing those that are not known, a few at a time.
func (r *Reader) parse(ctx context.Context, files []File, found []*parsed) Errors {
	var mu sync.Mutex
	var errs Errors
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	group.SetLimit(workers)
	memory := semaphore.NewWeighted(maxParsed)
	var unknown []int
	var total sum
	for i, f := range files {
		if known := r.parsed[contentOf(f)]; known != nil && f.Hash != "" {
			known.round = r.round
			found[i] = known
			total.add(known)
			continue
		}
		unknown = append(unknown, i)
		group.Go(func() error {
			if ctx.Err() != nil || total.over() != "" {
				return nil
			}
			data, err := f.Data()
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, &Error{File: f.Path, Message: fmt.Sprintf("cannot read the file: %v", err)})
				return nil
			}
			weight := min(max(int64(len(data)), maxParsed/int64(workers)), maxParsed)
			if memory.Acquire(ctx, weight) != nil {
				return nil // ctx has ended
			}
			defer memory.Release(weight)
			p := &parsed{readings: readFile(ctx, f.Path, data), round: r.round, size: int64(len(data))}
			for _, reading := range p.readings {
				p.memory += memoryOf(reflect.ValueOf(reading.object))
			}
			found[i] = p
			total.add(p)
			return nil
		})
	}
	_ = group.Wait() // the functions return nil
	if ctx.Err() != nil {
		return Errors{{Message: "the reading was ended"}} // nothing of it is kept: files may have been left out
	}
	if over := total.over(); over != "" {
		clear(found)
		return Errors{{Message: over}}
	}
	for _, i := range unknown {
		if f := files[i]; f.Hash != "" && found[i] != nil {
			r.parsed[contentOf(f)] = found[i]
		}
	}
	return errs
}

// sum is what the files read so far have together: it ends the reading of a source that is too much, long before all of
// it is in memory.
type sum struct{ objects, bytes, memory, reached atomic.Int64 }

func (s *sum) add(p *parsed) {
	s.bytes.Add(p.size)
	s.memory.Add(p.memory)
	for i := range p.readings {
		if o := p.readings[i].object; o != nil {
			s.objects.Add(1)
			_, ports, addresses, _ := reached(o.Object)
			s.reached.Add(int64(ports * addresses))
		}
	}
}

// over says which limit is passed far enough for nothing else to matter; the object that passes it is told where all are
// read.
func (s *sum) over() string {
	switch {
	case s.bytes.Load() > MaxSource:
		return fmt.Sprintf("the source's manifests have more than %d MiB together", MaxSource>>20)
	case s.memory.Load() > MaxMemory:
		return fmt.Sprintf("the source's objects take more than %d MiB of memory together", MaxMemory>>20)
	case s.reached.Load() > MaxReached:
		return fmt.Sprintf("the source's services and EndpointSlices have more than %d ports of addresses together", MaxReached)
	case s.objects.Load() > 2*MaxObjects:
		return fmt.Sprintf("the source has more than %d objects", MaxObjects)
	}
	return ""
}

// readFile reads a file's content, or refuses what Git LFS has put in its place: left out, it would delete the objects
// that the content states.
func readFile(ctx context.Context, name string, data []byte) []reading {
	if !pointer(data) {
		return read(ctx, name, data)
	}
	r := reading{}
	r.fail(1, 1, "", "the file is a Git LFS pointer, not the manifest itself; keep manifests out of Git LFS (git lfs untrack)")
	return []reading{r}
}

// pointer says that content is a Git LFS pointer (git-lfs, docs/spec.md; the second line is of versions before the first).
func pointer(data []byte) bool {
	return bytes.HasPrefix(data, []byte("version https://git-lfs.github.com/spec/")) ||
		bytes.HasPrefix(data, []byte("version https://hawser.github.com/spec/"))
}

// forget drops what neither this revision nor the one before it wanted.
func (r *Reader) forget() {
	for c, p := range r.parsed {
		if p.round < r.round-1 {
			delete(r.parsed, c)
		}
	}
}

func contentOf(f File) content {
	c := content{hash: f.Hash, as: "yaml"}
	switch {
	case kustomization(f.Path):
		c.as = "kustomization"
	case path.Ext(f.Path) == ".json":
		c.as = "json"
	}
	return c
}

// Read reads files without keeping anything; see Reader.
func Read(ctx context.Context, files []File, opts Options) (*Set, Errors) {
	return NewReader().Read(ctx, files, opts)
}

func compareObjects(a, b Object) int {
	if a.rank != b.rank {
		return cmp.Compare(a.rank, b.rank)
	}
	return cmp.Or(
		strings.Compare(a.Key.Namespace, b.Key.Namespace),
		strings.Compare(a.Key.Name, b.Key.Name),
		strings.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
	)
}

func compareErrors(a, b *Error) int {
	return cmp.Or(
		strings.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
		strings.Compare(a.Field, b.Field),
		strings.Compare(a.Message, b.Message),
	)
}
