package plan

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/roles"
	"lockstep/store/view"
)

// freePrunes is how many objects a revision may delete whatever their share: a source of four objects that loses three
// is being worked on, not lost.
const freePrunes = 3

// Window is the time over which what a source loses counts towards its prune budget: a copy that creeps, or a script that
// deletes file by file, makes a revision every second of which none loses much. Ten minutes are longer than either pauses,
// and shorter than two decisions of people.
const Window = 10 * time.Minute

// Decide plans a revision. It returns all problems where the revision must be refused whole; a plan that is held is
// not a problem of the revision but asks for consent. Equal inputs in any order give equal plans.
func Decide(in Input) (*Plan, Problems) {
	d := decision{in: in, before: make(map[kinds.Key]int, len(in.Inventory)), stated: make([]bool, len(in.Inventory)),
		inventory: make([]Desired, 0, max(len(in.Inventory), len(in.Objects)))}
	for i := range in.Inventory {
		d.before[in.Inventory[i].Key] = i
	}
	for i := range in.Objects {
		d.object(&in.Objects[i])
	}
	prunes := d.prunes()
	d.problems = append(d.problems, d.namespaces()...)
	sortByKey(d.inventory)
	sortByKey(d.entries)

	p := &Plan{Source: in.Source, Revision: in.Revision, Inventory: d.inventory, Entries: d.entries}
	look := d.inventory
	if !in.Drift {
		look = unapplied(d.inventory, Along(d.inventory, in.View))
	}
	p.Steps = Reconcile(look, in.View, in.Rules, in.Now)
	for _, s := range p.Steps {
		if s.Verb == Refuse {
			d.problems = append(d.problems, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: s.Field, Message: s.Reason})
		}
	}
	d.problems = append(d.problems, d.services(p.Steps)...)
	d.problems = append(d.problems, d.reach(p.Steps)...)
	then := &after{inventory: d.inventory, view: in.View, rules: in.Rules}
	p.Held = held(in.Revision, overBudget(in.Revision, len(in.Objects), prunes, d.lost(), d.live()), d.data(p.Steps, then))
	d.problems = append(d.problems, d.rivals(p.Steps, then)...)
	d.problems = append(d.problems, d.admission(p.Steps, then)...)
	d.problems = append(d.problems, d.quotas(p.Steps, then)...)
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	p.Warnings = append(d.standards(p.Steps, then), d.doubts(p.Steps, then)...)
	p.Warnings.sort()
	return p, nil
}

// sortByKey sorts entries, which most often are in order.
func sortByKey(entries []Desired) {
	slices.SortFunc(entries, func(a, b Desired) int { return compare(a.Key, b.Key) })
}

// unapplied are the entries that have not been carried out, and those that go along: few of many.
func unapplied(inventory []Desired, along map[kinds.Key]bool) []Desired {
	var out []Desired
	for i := range inventory {
		if inventory[i].State != Applied || along[inventory[i].Key] {
			out = append(out, inventory[i])
		}
	}
	return out
}

type decision struct {
	in        Input
	before    map[kinds.Key]int // index into the inventory before
	stated    []bool            // by that index: the revision states it too
	inventory []Desired
	entries   []Desired
	problems  Problems
}

func (d *decision) object(o *Object) {
	now := Desired{
		Source: d.in.Source, Key: o.Key, Object: o.Stated, Origin: o.Origin,
		Commit: d.in.Revision.ID, Author: d.in.Revision.Author, State: Pending,
	}
	if problem := driftProblem(o.Stated); problem != "" {
		d.problems = append(d.problems, Problem{Origin: o.Origin, Key: o.Key, Message: problem})
		return
	}
	if keptByCluster(o.Key) {
		if roles.Default(o.Key) && !asInEveryCluster(o, d.in.Rules) {
			d.problems = append(d.problems, Problem{Origin: o.Origin, Key: o.Key, Message: "is not what it is in every cluster: " +
				"the cluster itself keeps it; choose another name"})
		}
		return // an export of a namespace has it, and means nothing by it, as with a status
	}
	if i, had := d.before[o.Key]; had {
		d.stated[i] = true
		before := &d.in.Inventory[i]
		advance(before, &now)
		d.keep(before, &now)
		return
	}
	if reason := d.belongs(o.Key); reason != "" {
		d.problems = append(d.problems, Problem{Origin: o.Origin, Key: o.Key, Message: reason})
		return
	}
	d.keep(&Desired{}, &now)
}

// belongs says whose an object is that is not the source's yet; empty: nobody's.
func (d *decision) belongs(k kinds.Key) string {
	for _, other := range d.in.Others {
		if place, ok := ownedBy(d.in.View, other, k); ok {
			return fmt.Sprintf("belongs to source %s (%s); a source never takes another's object", other, place)
		}
	}
	if live := d.in.View.Get(k); live != nil {
		if ref := metav1.GetControllerOfNoCopy(live); ref != nil {
			return fmt.Sprintf("is managed by %s %s; choose another name", ref.Kind, ref.Name)
		}
	}
	return ""
}

// advance moves an entry to what is stated now. Content that has not changed keeps the commit that brought it, and an
// entry whose content has not yet reached the store keeps the Before that is still in it.
func advance(before, now *Desired) {
	now.Ended = before.Ended
	switch {
	case bytes.Equal(before.Object, now.Object) && before.State != Pruning:
		now.Commit, now.Author, now.State, now.Before = before.Commit, before.Author, before.State, before.Before
	case before.State == Pending, len(before.Before) > 0:
		now.Before = before.Before
	default:
		now.Before = before.Object
	}
}

func (d *decision) keep(before, now *Desired) {
	d.inventory = append(d.inventory, *now)
	if !same(before, now) {
		d.entries = append(d.entries, *now)
	}
}

func same(a, b *Desired) bool {
	return a.Source == b.Source && a.Key == b.Key && a.File == b.File && a.Line == b.Line && a.Commit == b.Commit &&
		a.Author == b.Author && a.State == b.State && a.Ended == b.Ended &&
		bytes.Equal(a.Object, b.Object) && bytes.Equal(a.Before, b.Before)
}

// prunes marks what is no longer stated, and counts it.
func (d *decision) prunes() int {
	n := 0
	for i := range d.in.Inventory {
		if d.stated[i] {
			continue
		}
		before := &d.in.Inventory[i]
		now := *before
		now.State = Pruning
		if before.State != Pruning && !isNode(before.Key) { // a node stays
			n++
		}
		d.keep(before, &now)
	}
	return n
}

// live counts the entries the source has now, without those already being pruned.
func (d *decision) live() int {
	n := 0
	for i := range d.in.Inventory {
		if d.in.Inventory[i].State != Pruning {
			n++
		}
	}
	return n
}

// lost counts what the source lost within the window and neither has nor states again.
func (d *decision) lost() int {
	if len(d.in.Lost) == 0 {
		return 0
	}
	here := make(map[kinds.Key]bool, len(d.in.Objects))
	for i := range d.in.Objects {
		here[d.in.Objects[i].Key] = true
	}
	for i := range d.in.Inventory {
		if d.in.Inventory[i].State != Pruning {
			here[d.in.Inventory[i].Key] = true
		}
	}
	n := 0
	for _, k := range d.in.Lost {
		if !here[k] && !isNode(k) {
			n++
			here[k] = true
		}
	}
	return n
}

// held is why a revision is not applied that would delete more than its budget, or data; empty: it may be.
func held(rev Revision, budget string, data []loss) string {
	cause := budget
	switch {
	case rev.AllowPrune:
		return ""
	case budget == nothing:
		return nothing
	case len(data) > 0 && budget == "":
		cause = "would delete the data of " + countOf(data)
	case len(data) > 0:
		cause += ", and the data of " + countOf(data)
	case budget == "":
		return ""
	}
	remedy := `allow it with the commit trailer "Lockstep-Prune: allow"`
	if rev.Folder {
		remedy = `put them back, or allow it with "prune: allow" in its Source document (--config)`
	}
	return "held: " + cause + "; " + remedy + claimsOf(data)
}

// nothing holds the first revision of a source that has no manifests.
const nothing = "no manifests found; nothing is changed"

// overBudget is the prune budget's verdict on a revision that would delete prunes of the before objects that a source has, after
// it lost others within the window; empty: it is within.
func overBudget(rev Revision, objects, prunes, lost, before int) string {
	switch {
	case rev.Folder && objects == 0 && before == 0:
		return ""
	case objects == 0 && before == 0:
		return nothing
	case objects == 0:
		return fmt.Sprintf("no manifests, would delete all %d objects", before)
	case prunes == 0 || prunes+lost <= freePrunes || (prunes+lost)*2 <= before+lost:
		return ""
	case lost > 0:
		return fmt.Sprintf("would delete %d objects, %d of %d within %d minutes", prunes, prunes+lost, before+lost, Window/time.Minute)
	}
	return fmt.Sprintf("would delete %d of %d objects", prunes, before)
}

// namespaces finds the objects whose namespace neither exists nor is stated.
func (d *decision) namespaces() Problems {
	kind := kinds.For[*corev1.Namespace]()
	missing := map[string]string{} // why a namespace is not there, by its name; empty: it is
	for i := range d.in.Objects {
		if o := &d.in.Objects[i]; o.Key == kind.Key("", o.Key.Name) {
			missing[o.Key.Name] = ""
		}
	}
	var problems Problems
	for i := range d.in.Objects {
		o := &d.in.Objects[i]
		if o.Key.Namespace == "" || builtin(o.Key.Namespace) {
			continue
		}
		reason, known := missing[o.Key.Namespace]
		if !known {
			reason = d.lacks(kind.Key("", o.Key.Namespace))
			missing[o.Key.Namespace] = reason
		}
		if reason != "" {
			problems = append(problems, Problem{Origin: o.Origin, Key: o.Key, Field: "metadata.namespace", Message: reason})
		}
	}
	return problems
}

// lacks says why a namespace that is not stated is not there; empty: it is.
func (d *decision) lacks(namespace kinds.Key) string {
	if _, had := d.before[namespace]; had {
		return fmt.Sprintf("namespace %s is removed by this revision", namespace.Name)
	}
	if d.in.View.Get(namespace) == nil {
		return fmt.Sprintf("namespace %s does not exist and is not stated", namespace.Name)
	}
	return ""
}

// builtin namespaces are made by the cluster itself, perhaps a moment after the first revision is planned.
func builtin(namespace string) bool {
	switch namespace {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, corev1.NamespaceNodeLease:
		return true
	}
	return false
}

// keptByCluster says that a reconciler keeps the object, in every namespace where it is of one.
func keptByCluster(k kinds.Key) bool {
	switch kinds.ForResource(k.GroupResource()) {
	case kinds.For[*corev1.ConfigMap]():
		return k.Name == kinds.RootCA
	case kinds.For[*schedulingv1.PriorityClass]():
		return admission.SystemClass(k.Name)
	}
	return roles.Default(k)
}

// asInEveryCluster says that a role or binding which every cluster has states nothing that it has not.
func asInEveryCluster(o *Object, rules Rules) bool {
	stated, err := decode(o.Key, o.Stated)
	if err != nil {
		return false
	}
	rules.Default(stated)
	return slices.ContainsFunc(roles.Defaults(), func(own kinds.Object) bool {
		return kinds.KeyOf(own) == o.Key && roles.Grants(stated, own)
	})
}

// ownedBy says where another source states an object, if it does.
func ownedBy(v *view.View, source string, k kinds.Key) (place string, ok bool) {
	row, ok, err := Inventory.Get(v, source+"/"+k.Path())
	if err != nil {
		return "unreadable inventory", true
	}
	return row.Value.Origin.Place(), ok
}
