package plan

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"lockstep/kinds"
	"lockstep/store/view"
)

// scalers are the autoscalers by what they size, once an inventory is carried out: of the view, of the inventory, and those of
// the inventory that somebody has removed, which come back.
func (a *after) scalers() map[kinds.Key][]kinds.Key {
	if a.sizes != nil {
		return a.sizes
	}
	a.sizes = map[kinds.Key][]kinds.Key{}
	add := func(o kinds.Object) {
		if target, ok := kinds.ScaleTarget(o.(*autoscalingv2.HorizontalPodAutoscaler)); ok && o.GetDeletionTimestamp() == nil {
			a.sizes[target] = append(a.sizes[target], kinds.KeyOf(o))
		}
	}
	kind := kinds.For[*autoscalingv2.HorizontalPodAutoscaler]()
	for o := range a.List(kind.GroupResource(), "") {
		add(o)
	}
	for i := range a.inventory {
		if entry := &a.inventory[i]; lostScaler(entry, a.view) {
			if o, err := decode(entry.Key, entry.Object); err == nil {
				add(o)
			}
		}
	}
	for _, keys := range a.sizes {
		slices.SortFunc(keys, compare)
	}
	return a.sizes
}

// lostScaler says that an entry is an autoscaler that somebody has removed.
func lostScaler(entry *Desired, v *view.View) bool {
	return entry.State == Applied && entry.Key.GroupResource() == kinds.For[*autoscalingv2.HorizontalPodAutoscaler]().GroupResource() &&
		v.Get(entry.Key) == nil
}

// Along are the entries that are to be decided whenever one of the inventory is, since others depend on it, or on others:
// objects whose autoscaler goes, or turns to another, and autoscalers that somebody has removed. Nil: none.
func Along(inventory []Desired, v *view.View) map[kinds.Key]bool {
	var out map[kinds.Key]bool
	add := func(k kinds.Key) {
		if out == nil {
			out = map[kinds.Key]bool{}
		}
		out[k] = true
	}
	for k := range (&after{inventory: inventory, view: v, rules: Rules{Default: func(kinds.Object) {}}}).unscaled() {
		add(k)
	}
	for i := range inventory {
		if entry := &inventory[i]; lostScaler(entry, v) {
			add(entry.Key)
		}
	}
	return out
}

// unscaled are the objects whose autoscaler goes, or turns to another, with its name: they get the size again that is stated.
func (a *after) unscaled() map[kinds.Key]string {
	var out map[kinds.Key]string
	kind := kinds.For[*autoscalingv2.HorizontalPodAutoscaler]()
	for key := range a.changed(kind.GroupResource()) {
		h, ok := a.view.Get(key).(*autoscalingv2.HorizontalPodAutoscaler)
		if !ok {
			continue
		}
		if target, ok := kinds.ScaleTarget(h); ok && len(a.scalers()[target]) == 0 {
			if out == nil {
				out = map[kinds.Key]string{}
			}
			out[target] = key.String()
		}
	}
	return out
}

// rivals finds the autoscalers that the steps write, and whose target another one sizes already, or would.
func (d *decision) rivals(steps []Step, then *after) Problems {
	var problems Problems
	for i := range steps {
		s := &steps[i]
		h, ok := s.Object.(*autoscalingv2.HorizontalPodAutoscaler)
		if !ok || s.Verb != Create && s.Verb != Update {
			continue
		}
		target, ok := kinds.ScaleTarget(h)
		if !ok {
			continue
		}
		for _, other := range then.scalers()[target] {
			if other != s.Key {
				const field = "spec.scaleTargetRef"
				problems = append(problems, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: field,
					Message: fmt.Sprintf("%s: %v is sized by %v already", field, target, other)})
				break
			}
		}
	}
	return problems
}
