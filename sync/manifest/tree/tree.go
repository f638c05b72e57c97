// Package tree finds the manifests in a tree of files, alike for a commit, a folder and what validate is given.
package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"lockstep/internal/plain"
)

// Kind is what an entry of a directory is.
type Kind int

// Kinds of entries. Other is what can be neither read nor entered: pipes, sockets, devices.
const (
	File Kind = iota
	Dir
	Link
	Module // a Git submodule
	Other
)

// Entry is one entry of a directory.
type Entry struct {
	Name string
	Kind Kind
	// ID is the tree's own name for the content; the walk hands it back.
	ID string
	// Bad says why the entry's name makes the whole tree one that is not read; empty: it does not.
	Bad string
}

// Tree is a tree of files as the walk sees it. Paths are slash-separated, relative to the tree's top, which is "".
type Tree interface {
	// Top is the directory at "".
	Top() Entry
	// List returns the entries of a directory. One that vanished has none.
	List(dir string, e Entry) ([]Entry, error)
	// Find returns one entry of a directory, or an error that is fs.ErrNotExist.
	Find(dir string, e Entry, name string) (Entry, error)
	// Target is what a symbolic link says. Absolute is as it is; an error refuses nothing, the link leads nowhere.
	Target(name string, e Entry) (string, error)
	// Inside turns an absolute path into one relative to the top, where it leads there.
	Inside(absolute string) (string, bool)
}

// Limits bound a walk. They hold while walking: a tree of a thousand objects may have more paths than there are atoms.
type Limits struct {
	Entries int // of all directories together
	Files   int // manifests
	Depth   int // of directories
	Path    int // bytes
}

// Bounds are the limits where nothing else is said: ten times what is in the largest public repositories of manifests,
// and Linux' longest path.
func Bounds() Limits { return Limits{Entries: 1_000_000, Files: 100_000, Depth: 128, Path: 4096} }

// Manifest is a file to be read.
type Manifest struct {
	Path string
	// Real is where it is, another path than Path where a symbolic link led there.
	Real string
	ID   string // of the entry at Real
}

// Problem is why a tree is not read as it stands.
type Problem struct {
	Path    string // escaped; empty where the tree as a whole is meant
	Message string
}

// Error writes "path: message".
func (p Problem) Error() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Found is what a walk came to.
type Found struct {
	Files    []Manifest // in order of Path; none where a limit is passed
	Problems []Problem
	Ignored  []string // what was left out and why
}

// maxProblems bounds what is told of one tree; maxHops is Linux' own bound on links that lead to links.
const maxProblems, maxHops = 100, 40

// Wanted says by its name alone whether a file is a manifest: by extension, and not hidden.
func Wanted(name string) bool {
	if Hidden(name) {
		return false
	}
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// Hidden says by its name alone whether an entry of a directory is left out, with all below it.
func Hidden(name string) bool { return strings.HasPrefix(path.Base(name), ".") }

// Walk finds the manifests at and below root: files whose name ends in .yaml, .yml or .json, except those whose path
// from root has a part that begins with a dot. A symbolic link to a manifest inside the tree is read as that manifest,
// one that leads out of it is a problem, and none to a directory is followed. A root that is not there, or is no
// directory, is fs.ErrNotExist. Other errors are the tree's, and ctx's.
func Walk(ctx context.Context, t Tree, root string, limits Limits) (Found, error) {
	w := walk{ctx: ctx, tree: t, limits: limits}
	at := t.Top()
	for dir, name := range parts(root) {
		e, err := t.Find(dir, at, name)
		if err == nil && e.Kind != Dir {
			err = fs.ErrNotExist
		}
		if err != nil {
			return Found{}, err
		}
		at = e
	}
	err := w.dir(root, at, 0)
	if errors.Is(err, errFull) {
		err, w.found.Files = nil, nil // nothing of it will be used
	}
	slices.SortFunc(w.found.Files, func(a, b Manifest) int { return strings.Compare(a.Path, b.Path) })
	slices.SortStableFunc(w.found.Problems, func(a, b Problem) int { return cmp.Compare(a.Path, b.Path) })
	return w.found, err
}

// parts yields each part of a path with the directory it stands in.
func parts(name string) func(func(dir, part string) bool) {
	return func(yield func(dir, part string) bool) {
		if name == "" {
			return
		}
		dir := ""
		for part := range strings.SplitSeq(name, "/") {
			if !yield(dir, part) {
				return
			}
			dir = path.Join(dir, part)
		}
	}
}

type walk struct {
	ctx     context.Context
	tree    Tree
	limits  Limits
	entries int
	found   Found
}

// errFull ends a walk that has passed a limit; the problem is told already.
var errFull = errors.New("a limit is passed")

func (w *walk) problem(name, message string) error {
	w.found.Problems = append(w.found.Problems, Problem{plain.Text(name), message})
	if len(w.found.Problems) >= maxProblems {
		return errFull
	}
	return nil
}

// full tells a limit that the tree as a whole has passed.
func (w *walk) full(format string, args ...any) error {
	w.found.Problems = append(w.found.Problems, Problem{"", fmt.Sprintf(format, args...)})
	return errFull
}

func (w *walk) dir(dir string, e Entry, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth > w.limits.Depth {
		return w.problem(dir, fmt.Sprintf("directories are nested deeper than %d", w.limits.Depth))
	}
	entries, err := w.tree.List(dir, e)
	if err != nil {
		return err
	}
	if w.entries += len(entries); w.entries > w.limits.Entries {
		return w.full("there are more than %d files and directories below the source's path", w.limits.Entries)
	}
	for _, e := range entries {
		if err := w.entry(path.Join(dir, e.Name), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(name string, e Entry, depth int) error {
	switch {
	case e.Bad != "":
		return w.problem(name, e.Bad)
	case Hidden(e.Name):
		return nil
	case e.Kind == Module:
		if len(w.found.Ignored) < maxProblems {
			w.found.Ignored = append(w.found.Ignored, plain.Text(name)+": submodules are not read")
		}
		return nil
	case e.Kind != Dir && e.Kind != Link && !Wanted(e.Name):
		return nil
	case unprintable(e.Name):
		return w.problem(name, "the name has control characters, or is not UTF-8")
	case len(name) > w.limits.Path:
		return w.problem(name, fmt.Sprintf("the path is longer than %d bytes", w.limits.Path))
	}
	switch e.Kind {
	case Dir:
		return w.dir(name, e, depth+1)
	case Link:
		return w.link(name, e)
	case Other:
		return w.problem(name, "it is not a regular file")
	}
	return w.file(Manifest{name, name, e.ID})
}

func (w *walk) file(f Manifest) error {
	if len(w.found.Files) >= w.limits.Files {
		return w.full("there are more than %d manifests below the source's path", w.limits.Files)
	}
	w.found.Files = append(w.found.Files, f)
	return nil
}

// unprintable names cannot be told to anybody as they are.
func unprintable(name string) bool {
	return !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
	})
}

// link reads a symbolic link by what it says, inside the tree only.
func (w *walk) link(name string, e Entry) error {
	real, to, err := w.resolve(name, e)
	wanted := Wanted(name)
	switch {
	case errors.Is(err, errOut):
		return w.problem(name, "the symbolic link leads out of the tree")
	case err != nil && w.ctx.Err() != nil:
		return w.ctx.Err()
	case !wanted || err == nil && to.Kind == Dir:
		return nil
	case err != nil:
		return w.problem(name, "the symbolic link leads nowhere")
	case to.Kind != File:
		return w.problem(name, "the symbolic link does not lead to a regular file")
	}
	return w.file(Manifest{name, real, to.ID})
}

var errOut = errors.New("out of the tree")

// resolve follows a link, and links on its way, to what is at its end.
func (w *walk) resolve(name string, e Entry) (string, Entry, error) {
	type step struct {
		dir string
		e   Entry
	}
	var at []step // the directories from below the top to where we are
	descend := func(dir Entry) {
		from := ""
		if len(at) > 0 {
			from = at[len(at)-1].dir
		}
		at = append(at, step{path.Join(from, dir.Name), dir})
	}
	here := func() (string, Entry) {
		if len(at) == 0 {
			return "", w.tree.Top()
		}
		return at[len(at)-1].dir, at[len(at)-1].e
	}
	for dir, part := range parts(path.Dir(name)) {
		if part == "." {
			break
		}
		_, parent := here()
		found, err := w.tree.Find(dir, parent, part)
		if err != nil {
			return "", Entry{}, err
		}
		descend(found)
	}
	hops, rest := 0, []string{}
	follow := func(name string, e Entry) error {
		if hops++; hops > maxHops {
			return fs.ErrNotExist
		}
		target, err := w.tree.Target(name, e)
		if err != nil {
			return err
		}
		if path.IsAbs(target) {
			inside, ok := w.tree.Inside(path.Clean(target))
			if !ok {
				return errOut
			}
			target, at = inside, at[:0]
		}
		rest = append(strings.Split(target, "/"), rest...)
		return nil
	}
	if err := follow(name, e); err != nil {
		return "", Entry{}, err
	}
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return "", Entry{}, errOut
			}
			at = at[:len(at)-1]
			continue
		}
		dir, parent := here()
		found, err := w.tree.Find(dir, parent, part)
		if err != nil {
			return "", Entry{}, err
		}
		switch full := path.Join(dir, part); {
		case found.Kind == Link:
			if err := follow(full, found); err != nil {
				return "", Entry{}, err
			}
		case found.Kind == Dir:
			descend(found)
		case len(rest) > 0:
			return "", Entry{}, fs.ErrNotExist
		default:
			return full, found, nil
		}
	}
	dir, e := here()
	return dir, e, nil
}
