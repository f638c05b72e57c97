package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/quantity"
	"lockstep/store/view"
)

// Reconcile returns the steps that bring the store to an inventory: first what is to exist, in the order of kinds.All,
// then what is to go, in the reverse order. Entries that are applied and in sync have no step. It needs nothing but the
// inventory, so any process finishes what another began.
func Reconcile(inventory []Desired, v *view.View, rules Rules, now time.Time) []Step {
	var steps []Step
	then := &after{inventory: inventory, view: v, rules: rules}
	then.left = then.unscaled()
	for _, entry := range inventory {
		if step, ok := reconcile(entry, then, now); ok {
			if step.Drift && !rules.Repair && (step.Verb == Create || step.Verb == Update || step.Verb == Replace) && onlyTold(entry, v) {
				step.Verb, step.Object = Tell, nil
			}
			steps = append(steps, step)
		}
	}
	slices.SortFunc(steps, func(a, b Step) int {
		if ap, bp := a.Verb == Prune, b.Verb == Prune; ap != bp {
			if ap {
				return 1
			}
			return -1
		}
		c := rank(a.Key) - rank(b.Key)
		if c == 0 {
			c = compare(a.Key, b.Key)
		}
		if a.Verb == Prune {
			return -c
		}
		return c
	})
	return steps
}

func rank(k kinds.Key) int {
	for i, kind := range kinds.All {
		if kind.Resource == k.Resource && kind.Group == k.Group {
			return i
		}
	}
	return len(kinds.All)
}

func reconcile(entry Desired, then *after, now time.Time) (Step, bool) {
	v, rules := then.view, then.rules
	step := Step{Key: entry.Key, Entry: entry, Live: v.Get(entry.Key)}
	why := v.Unreadable(entry.Key)
	switch {
	case why != "": // it is there, whatever the view has of it
		step.Verb, step.Reason = Refuse, "what is stored of it cannot be read: "+why
		return step, true
	case keptByCluster(entry.Key): // a release before this one may have taken it from a file
		step.Verb, step.Reason = Keep, "the cluster itself keeps it"
		return step, entry.State != Applied
	case isNode(entry.Key):
		return node(step, then, now)
	case entry.State == Pruning:
		return prune(step, rules, now), true
	case step.Live == nil && entry.State == Applied && entry.Ended != "":
		return step, false
	case step.Live == nil:
		return create(step, then), true
	case step.Live.GetDeletionTimestamp() != nil:
		step.Verb, step.Reason = Wait, "it is being deleted"
		return step, true
	}
	return update(step, then, now)
}

func prune(step Step, rules Rules, now time.Time) Step {
	switch {
	case step.Live == nil:
		step.Verb, step.Reason = Keep, "no longer stated, and already gone"
	case step.Key.Resource == "namespaces" && builtin(step.Key.Name):
		step.Verb, step.Reason = Keep, "no longer stated; the cluster itself keeps it"
	case step.Live.GetDeletionTimestamp() != nil:
		step.Verb, step.Reason = Keep, "no longer stated, and already being deleted"
	default:
		step.Verb, step.Reason = Prune, "no longer stated"
		if kinds.Orphans(step.Live) {
			step.Reason += "; what it has made stays"
		}
		if changed, gone := rules.Delete(step.Live, now); !gone {
			step.Object = changed
		}
	}
	return step
}

func create(step Step, then *after) Step {
	v, rules := then.view, then.rules
	if ns := step.Key.Namespace; ns != "" {
		if live, ok := view.Get[*corev1.Namespace](v, "", ns); ok && live.DeletionTimestamp != nil {
			step.Verb, step.Reason = Wait, "namespace "+ns+" is being deleted"
			return step
		}
	}
	o, err := decode(step.Key, step.Entry.Object)
	if err != nil {
		step.Verb, step.Reason = Refuse, err.Error()
		return step
	}
	rules.Default(o)
	if err := rules.Admit(o, then); err != nil {
		step.Verb, step.Reason, step.Field = Refuse, err.Field+": "+err.Detail, err.Field
		return step
	}
	if errs := rules.PrepareCreate(o); len(errs) > 0 {
		step.Verb, step.Reason, step.Field = Refuse, explain(&step, errs, nil), errs[0].Field
		return step
	}
	if why := drivenOut(o, v); why != "" {
		step.Verb, step.Reason = Wait, why
		return step
	}
	step.Verb, step.Object, step.Reason = Create, o, "stated, and not there"
	if step.Entry.Ended == "" && (step.Entry.State == Applied || len(step.Entry.Before) > 0) {
		if controller := removedBy(o, v); controller != "" {
			step.Verb, step.Object, step.Reason = Wait, nil, waitsFor(controller)
			return step
		}
		step.Drift, step.Reason = true, "stated, and deleted by hand"
		if why := goneFor(step.Key, v); why != "" {
			step.Reason = "stated, and " + why
		}
	}
	return step
}

func update(step Step, then *after, now time.Time) (Step, bool) {
	rules := then.rules
	not := theirs(step.Live, then)
	if aggregates(step.Key, step.Entry.Object) {
		not = func(path ...string) bool { return len(path) == 1 && path[0] == "rules" }
	}
	before := step.Entry.Before
	if step.Entry.State == Applied {
		before = step.Entry.Object
	}
	merged, err := merge(without(before, not), without(step.Entry.Object, not), step.Live)
	if err != nil {
		step.Verb, step.Reason = Refuse, err.Error()
		return step, true
	}
	if merged != nil {
		rules.Default(merged)
	}
	if merged == nil || apiequality.Semantic.DeepEqual(merged, step.Live) {
		return asStated(step)
	}
	changes := Differences(step.Live, merged)
	if errs := rules.PrepareUpdate(merged, step.Live); len(errs) > 0 {
		return another(step, errs, changes, rules, now), true
	}
	if apiequality.Semantic.DeepEqual(merged, step.Live) {
		return asStated(step)
	}
	step.Verb, step.Object = Update, merged
	switch scaler := then.left[step.Key]; {
	case scaler != "" && step.Entry.State == Applied:
		step.Reason = "no longer sized by " + scaler + ": " + paths(changes)
	case step.Entry.State == Applied:
		step.Drift, step.Reason = true, "changed by hand: "+paths(changes)
	case len(step.Entry.Before) == 0:
		step.Reason = "adopted, it belonged to no source: " + paths(changes)
	default:
		step.Reason = "stated anew: " + paths(changes)
	}
	return step, true
}

func decode(k kinds.Key, stated json.RawMessage) (kinds.Object, error) {
	kind := kinds.ForResource(k.GroupResource())
	if kind == nil {
		return nil, fmt.Errorf("cannot decode %v: the kind is not served", k)
	}
	o := kind.New()
	if err := quantity.InJSON(stated, o); err != nil {
		return nil, fmt.Errorf("cannot decode %v: %w", k, err)
	}
	if err := json.Unmarshal(stated, o); err != nil {
		return nil, fmt.Errorf("cannot decode %v: what is stated does not fit its type", k)
	}
	o.SetNamespace(k.Namespace)
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	return o, nil
}

// explain writes validation errors without the values they are about: a value may be a secret. Where Kubernetes shows what differs
// below its words, the changes are named.
func explain(s *Step, errs field.ErrorList, changes []Change) string {
	var lines []string
	immutable := false
	for _, e := range errs {
		detail, _, differs := strings.Cut(e.Detail, "\n")
		line := e.Field + ": " + strings.TrimSuffix(detail, ".")
		if differs && len(changes) > 0 {
			line += ": " + paths(changes)
		}
		if e.Detail == "" {
			line = e.Field + ": " + string(e.Type.String())
		}
		immutable = immutable || strings.Contains(e.Detail, "immutable") || e.Type == field.ErrorTypeForbidden
		lines = append(lines, line)
	}
	text := strings.Join(lines, "; ")
	if immutable {
		text += "; " + remedyOf(s, errs)
	}
	return text
}
