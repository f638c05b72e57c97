package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/store/view"
	"lockstep/kinds"
)

// freePrunes is how many objects a revision may delete whatever their share: a source of four objects that loses three
// is being worked on, not lost.
const freePrunes = 3

// Decide plans a revision. It returns all problems where the revision must be refused whole; a plan that is held is
// not a problem of the revision but asks for consent. Equal inputs in any order give equal plans.
func Decide(in Input) (*Plan, Problems) {
	d := decision{in: in, before: make(map[kinds.Key]Desired, len(in.Inventory)), stated: make(map[kinds.Key]bool, len(in.Objects))}
	for _, entry := range in.Inventory {
		d.before[entry.Key] = entry
	}
	for _, o := range in.Objects {
		d.stated[o.Key] = true
	}
	for _, o := range in.Objects {
		d.object(o)
	}
	prunes := d.prunes()
	d.problems = append(d.problems, d.namespaces()...)
	slices.SortFunc(d.inventory, func(a, b Desired) int { return compare(a.Key, b.Key) })
	slices.SortFunc(d.entries, func(a, b Desired) int { return compare(a.Key, b.Key) })

	p := &Plan{Source: in.Source, Revision: in.Revision, Inventory: d.inventory, Entries: d.entries}
	p.Held = held(len(in.Objects), prunes, d.live(), in.Revision.AllowPrune)
	look := d.inventory
	if !in.Drift {
		look = slices.DeleteFunc(slices.Clone(look), func(e Desired) bool { return e.State == Applied })
	}
	p.Steps = Reconcile(look, in.View, in.Rules, in.Now)
	for _, s := range p.Steps {
		if s.Verb == Refuse {
			d.problems = append(d.problems, Problem{File: s.Entry.File, Line: s.Entry.Line, Key: s.Key, Field: s.Field, Message: s.Reason})
		}
	}
	d.problems = append(d.problems, d.services(p.Steps)...)
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	return p, nil
}

type decision struct {
	in        Input
	before    map[kinds.Key]Desired
	stated    map[kinds.Key]bool
	inventory []Desired
	entries   []Desired
	problems  Problems
}

func (d *decision) object(o Object) {
	refuse := func(format string, args ...any) {
		d.problems = append(d.problems, Problem{File: o.File, Line: o.Line, Key: o.Key, Message: fmt.Sprintf(format, args...)})
	}
	for _, other := range d.in.Others {
		if file, line, ok := ownedBy(d.in.View, other, o.Key); ok {
			refuse("belongs to source %s (%s:%d); a source never takes another's object", other, file, line)
			return
		}
	}
	before, had := d.before[o.Key]
	if live := d.in.View.Get(o.Key); live != nil && !had {
		if ref := metav1.GetControllerOfNoCopy(live); ref != nil {
			refuse("is managed by %s %s; choose another name", ref.Kind, ref.Name)
			return
		}
	}
	entry := advance(before, had, Desired{
		Source: d.in.Source, Key: o.Key, Object: o.Stated, File: o.File, Line: o.Line,
		Commit: d.in.Revision.ID, Author: d.in.Revision.Author, State: Pending,
	})
	d.keep(before, entry)
}

// advance moves an entry to what is stated now. Content that has not changed keeps the commit that brought it, and an
// entry whose content has not yet reached the store keeps the Before that is still in it.
func advance(before Desired, had bool, now Desired) Desired {
	switch {
	case !had:
	case bytes.Equal(before.Object, now.Object) && before.State != Pruning:
		now.Commit, now.Author, now.State, now.Before = before.Commit, before.Author, before.State, before.Before
	case before.State == Pending, len(before.Before) > 0:
		now.Before = before.Before
	default:
		now.Before = before.Object
	}
	return now
}

func (d *decision) keep(before, now Desired) {
	d.inventory = append(d.inventory, now)
	if !same(before, now) {
		d.entries = append(d.entries, now)
	}
}

func same(a, b Desired) bool {
	return a.Source == b.Source && a.Key == b.Key && a.File == b.File && a.Line == b.Line && a.Commit == b.Commit &&
		a.Author == b.Author && a.State == b.State && bytes.Equal(a.Object, b.Object) && bytes.Equal(a.Before, b.Before)
}

// prunes marks what is no longer stated, and counts it.
func (d *decision) prunes() int {
	n := 0
	for _, before := range d.in.Inventory {
		if d.stated[before.Key] {
			continue
		}
		now := before
		now.State = Pruning
		if before.State != Pruning {
			n++
		}
		d.keep(before, now)
	}
	return n
}

// live counts the entries the source has now, without those already being pruned.
func (d *decision) live() int {
	n := 0
	for _, e := range d.in.Inventory {
		if e.State != Pruning {
			n++
		}
	}
	return n
}

// held is the prune budget's verdict.
func held(objects, prunes, before int, allowed bool) string {
	const remedy = `allow it with the commit trailer "Lockstep-Prune: allow"`
	switch {
	case allowed:
		return ""
	case objects == 0 && before == 0:
		return "no manifests found; nothing is changed"
	case objects == 0:
		return fmt.Sprintf("held: no manifests, would delete all %d objects; %s", before, remedy)
	case prunes > freePrunes && prunes*2 > before:
		return fmt.Sprintf("held: would delete %d of %d objects; %s", prunes, before, remedy)
	}
	return ""
}

// namespaces finds the objects whose namespace neither exists nor is stated.
func (d *decision) namespaces() Problems {
	var problems Problems
	for _, o := range d.in.Objects {
		if o.Key.Namespace == "" || builtin(o.Key.Namespace) {
			continue
		}
		ns := kinds.For[*corev1.Namespace]().Key("", o.Key.Namespace)
		_, had := d.before[ns]
		switch {
		case d.stated[ns]:
		case had:
			problems = append(problems, Problem{File: o.File, Line: o.Line, Key: o.Key, Field: "metadata.namespace", Message: fmt.Sprintf("namespace %s is removed by this revision", o.Key.Namespace)})
		case d.in.View.Get(ns) == nil:
			problems = append(problems, Problem{File: o.File, Line: o.Line, Key: o.Key, Field: "metadata.namespace", Message: fmt.Sprintf("namespace %s does not exist and is not stated", o.Key.Namespace)})
		}
	}
	return problems
}

// builtin namespaces are made by the cluster itself, perhaps a moment after the first revision is planned.
func builtin(namespace string) bool {
	switch namespace {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, corev1.NamespaceNodeLease:
		return true
	}
	return false
}

func ownedBy(v *view.View, source string, k kinds.Key) (file string, line int, ok bool) {
	r, ok := v.Record(Table, source+"/"+k.Path())
	if !ok {
		return "", 0, false
	}
	var entry struct {
		File string `json:"file"`
		Line int    `json:"line"`
	}
	if err := json.Unmarshal(r.Data, &entry); err != nil {
		return "unreadable inventory", 0, true
	}
	return entry.File, entry.Line, true
}
