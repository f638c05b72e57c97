// Package plan decides how the objects of a source become what its manifests state.
package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/store/view"
	"lockstep/sync/origin"
)

// Inventory is what the sources state; a row's name is "<source>/<Key.Path()>".
const Inventory view.Table[Desired] = "desired"

// State says how far an inventory entry has been carried out.
type State string

const (
	// Applied: the object in the store has had this content. The zero value.
	Applied State = ""
	// Pending: the content is accepted, and the object in the store is still as Before states.
	Pending State = "pending"
	// Pruning: the source no longer states the object; it is to be deleted, then the entry.
	Pruning State = "prune"
)

// Desired is one inventory entry: an object as the newest accepted revision of its source states it, and where.
type Desired struct {
	Source string    `json:"source"`
	Key    kinds.Key `json:"key"`
	// Object is what the manifest states and nothing more, as JSON with apiVersion and kind: the fields sync owns.
	Object json.RawMessage `json:"object"`
	// Before is what was stated when the object was last written; set only while Pending. Empty: it was not stated.
	Before json.RawMessage `json:"before,omitempty"`
	origin.Origin
	// Commit is the revision in which this content was first applied, Author who made it.
	Commit string `json:"commit"`
	Author string `json:"author,omitempty"`
	State  State  `json:"state,omitempty"`
	// Ended says how an object that ends by itself, a Job, has ended: Complete, or why it failed. It is not made again when it is
	// gone, whoever removed it, until other content is stated. Empty: it has not ended.
	Ended string `json:"ended,omitempty"`
}

// Complete is Ended of what has done its work.
const Complete = "Complete"

// RecordName is the name of the entry's row in the Inventory.
func (d Desired) RecordName() string { return d.Source + "/" + d.Key.Path() }

// Object is one object of a revision.
type Object struct {
	Key kinds.Key
	// Stated is what the manifest states and nothing more, as JSON with apiVersion and kind, in Kubernetes' canonical
	// values; equal statements are equal bytes.
	Stated json.RawMessage
	origin.Origin
}

// Revision is what a plan needs to know of a commit.
type Revision struct {
	ID     string
	Author string
	// LeftOut words how many objects it has that the source skips, and of which kinds; empty: none.
	LeftOut string
	// AllowPrune lifts the prune budget: the commit has the trailer or the source permits it.
	AllowPrune bool
	// Folder says that it is no commit but the state of a folder: a message cannot lift the budget.
	Folder bool
}

// Rules are Kubernetes' own rules, as packages kinds/strategy and kinds/admission have them; all are required.
type Rules struct {
	// Repair says that drift is put right also where it is else only told: something was pushed.
	Repair        bool
	Default       func(kinds.Object)
	Admit         func(kinds.Object, admission.Cluster) *field.Error
	PrepareCreate func(kinds.Object) field.ErrorList
	PrepareUpdate func(new, old kinds.Object) field.ErrorList
	// Delete returns the object as it is while it is being deleted, or gone where it may vanish at once.
	Delete func(o kinds.Object, now time.Time) (changed kinds.Object, gone bool)
}

// Verb is what a step does.
type Verb string

const (
	Create Verb = "create"
	Update Verb = "update"
	Prune  Verb = "prune"
	// Replace: the object has ended and goes, so that it can be created as it is stated now.
	Replace Verb = "replace"
	// Remove: the object goes because its manifest says so, and the manifest stays. Of nodes only.
	Remove Verb = "remove"
	// Keep: the object is as stated; only its inventory entry moves to Applied.
	Keep Verb = "keep"
	// Wait: nothing can be done until the store changes, for the reason given.
	Wait Verb = "wait"
	// Refuse: Kubernetes' rules refuse the step, for the reason given.
	Refuse Verb = "refuse"
	// Tell: it differs, and is only told.
	Tell Verb = "tell"
)

// Step is one change of one object, with its reason. Steps are carried out in the order of their list.
type Step struct {
	Verb   Verb
	Key    kinds.Key
	Reason string
	// Drift says that nobody pushed: the object differs from content that was applied before.
	Drift bool
	// Field is the path of the first field that Kubernetes' rules refuse; set for Refuse only, and only where one is known.
	Field string
	// Live is the object as the step was decided from; nil where there is none. Shared: do not change.
	Live kinds.Object
	// Object is what to write. Nil for Keep, Wait, Refuse and Tell, and where a pruned object vanishes at once.
	Object kinds.Object
	// Entry is the inventory entry that the step fulfils.
	Entry Desired
}

// Plan is a decided revision.
type Plan struct {
	Source   string
	Revision Revision
	// Held is why the revision is not to be applied, although valid; empty: it may be.
	Held string
	// Inventory is every entry of the source once the revision is accepted, by key.
	Inventory []Desired
	// Entries are those of Inventory that differ from the inventory before.
	Entries []Desired
	// Steps make the store as stated; those of entries that are in sync are left out.
	Steps []Step
	// Warnings do not keep the revision from being applied, and are told with it.
	Warnings Problems
}

// Empty says that carrying the plan out would change no object.
func (p *Plan) Empty() bool {
	for _, s := range p.Steps {
		if s.Verb != Keep {
			return false
		}
	}
	return p.Held == ""
}

// Loses counts the objects that the source no longer states, and stated until now.
func (p *Plan) Loses() int {
	n := 0
	for i := range p.Entries {
		if p.Entries[i].State == Pruning {
			n++
		}
	}
	return n
}

// Input is what a revision is decided from. Times are arguments; nothing in it is changed.
type Input struct {
	Source    string
	Revision  Revision
	Objects   []Object
	Inventory []Desired // the source's entries now, in any order
	// Lost are objects that the source lost within Window before Now, in any order: they count towards the prune budget
	// unless it states them again.
	Lost []kinds.Key
	// Others are the names of all sources but this one.
	Others []string
	// Services are what services may have; the zero value refuses no address for where it is.
	Services Networks
	View     *view.View
	Rules    Rules
	Now      time.Time
	// Drift plans the repair of unchanged entries too; without it only what the revision changes is looked at.
	Drift bool
}

// Problem is why a revision is refused, at the place that is to be changed.
type Problem struct {
	origin.Origin
	// Column counts from 1; zero: not known.
	Column int
	Key    kinds.Key
	// Field is the path of the field at fault; empty where none is.
	Field   string
	Message string
}

// Error writes the problem as "cart.yaml:14: Deployment shop/cart: …".
func (p Problem) Error() string {
	place := p.Place()
	if p.Column > 0 {
		place += fmt.Sprintf(":%d", p.Column)
	}
	return fmt.Sprintf("%s: %v: %s", place, p.Key, p.Message)
}

// Problems are all problems of a revision, by file and line.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return compare(a.Key, b.Key)
	})
}

// compare orders keys by group, resource, namespace and name.
func compare(a, b kinds.Key) int {
	return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Resource, b.Resource),
		strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
