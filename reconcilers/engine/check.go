package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// writeRules are a reconciler's declared writes by kind.
type writeRules map[*kinds.Kind]loop.Write

func newWriteRules(r loop.Reconciler) writeRules {
	rules := writeRules{}
	for _, w := range r.Writes {
		if _, twice := rules[w.Kind]; twice {
			panic(fmt.Sprintf("engine: reconciler %q declares %s twice", r.Name, w.Kind.Kind))
		}
		for path := range w.Shared {
			if !slices.Contains(w.Fields, path) {
				panic(fmt.Sprintf("engine: reconciler %q shares %s of %s and does not write it", r.Name, path, w.Kind.Kind))
			}
		}
		rules[w.Kind] = w
	}
	return rules
}

// quarrels are the fields that two reconcilers write without both saying that they are shared. What one writes of a field,
// another one that decides from its own point of view would undo, and so on for ever.
func quarrels(loops []loop.Reconciler) (found []string) {
	for i, a := range loops {
		for _, b := range loops[i+1:] {
			for _, pair := range meetings(a, b) {
				if !pair.shared {
					found = append(found, fmt.Sprintf("reconcilers %q and %q both write %s of %s and do not declare it shared", a.Name,
						b.Name, pair.field, pair.kind.Kind))
				}
			}
		}
	}
	return found
}

// meeting is a field that two reconcilers write.
type meeting struct {
	kind   *kinds.Kind
	field  string // the deeper one of the two paths
	shared bool   // both declare it
}

func meetings(a, b loop.Reconciler) (list []meeting) {
	for _, mine := range a.Writes {
		for _, theirs := range b.Writes {
			if mine.Kind != theirs.Kind {
				continue
			}
			for _, f := range mine.Fields {
				for _, g := range theirs.Fields {
					if covered(f, []string{g}) || covered(g, []string{f}) {
						list = append(list, meeting{mine.Kind, longer(f, g), mine.Shared[f] != "" && theirs.Shared[g] != ""})
					}
				}
			}
		}
	}
	return list
}

func longer(a, b string) string {
	if len(b) > len(a) {
		return b
	}
	return a
}

// check finds what makes a decision a bug of its reconciler: something it did not declare, a child it forgot. owner is
// nil where the key names none.
func (rules writeRules) check(v *view.View, owner kinds.Object, d loop.Decision) error {
	named := map[kinds.Key]bool{}
	uids := map[types.UID]bool{}
	once := func(key kinds.Key, uid types.UID) error {
		if key.Name != "" && named[key] {
			return fmt.Errorf("%v is named twice", key)
		}
		named[key], uids[uid] = true, true
		return nil
	}
	for _, w := range d.Wants {
		key := kinds.KeyOf(w.Object)
		if w.Reason == "" {
			return fmt.Errorf("%v is wanted without a reason", key)
		}
		if err := once(key, w.Object.GetUID()); err != nil {
			return err
		}
		if err := rules.checkWant(v, key, w.Object); err != nil {
			return err
		}
	}
	for _, drop := range d.Drops {
		if drop.Reason == "" || drop.UID == "" {
			return fmt.Errorf("%v is dropped without a reason or uid", drop.Key)
		}
		if err := once(drop.Key, drop.UID); err != nil {
			return err
		}
		if kind := kinds.ForResource(drop.Key.GroupResource()); !rules[kind].Delete {
			return fmt.Errorf("%v is dropped, but deleting is not declared", drop.Key)
		}
		if drop.As != nil {
			if err := rules.checkChange(v, drop.Key, drop.As); err != nil {
				return err
			}
		}
	}
	if d.Status != nil {
		if err := rules.checkChange(v, kinds.KeyOf(d.Status), d.Status); err != nil {
			return err
		}
	}
	if owner == nil {
		return nil
	}
	for child := range v.Controlled(owner.GetUID()) {
		rule := rules[kinds.Of(child)]
		if rule.Children && !rule.Derived && !uids[child.GetUID()] {
			return fmt.Errorf("%v is neither wanted nor dropped", kinds.KeyOf(child))
		}
	}
	return nil
}

func (rules writeRules) checkWant(v *view.View, key kinds.Key, o kinds.Object) error {
	if o.GetUID() != "" {
		return rules.checkChange(v, key, o)
	}
	if !rules[kinds.Of(o)].Create {
		return fmt.Errorf("%v is wanted anew, but creating is not declared", key)
	}
	if o.GetName() == "" && o.GetGenerateName() == "" {
		return fmt.Errorf("a new %s has no name", kinds.Of(o).Kind)
	}
	return nil
}

func (rules writeRules) checkChange(v *view.View, key kinds.Key, o kinds.Object) error {
	old := v.Get(key)
	if old == nil || old.GetUID() != o.GetUID() {
		return fmt.Errorf("%v with uid %q is not in the view", key, o.GetUID())
	}
	if old == o || equality.Semantic.DeepEqual(old, o) {
		return nil
	}
	fields := rules[kinds.Of(o)].Fields
	for _, path := range changedPaths(old, o) {
		if !covered(path, fields) {
			return fmt.Errorf("%v is changed at %s, which is not declared", key, path)
		}
	}
	return nil
}

func covered(path string, fields []string) bool {
	return slices.ContainsFunc(fields, func(f string) bool { return path == f || strings.HasPrefix(path, f+".") })
}

// changedPaths returns the paths of the fields that differ, sorted. Lists and scalars are compared as a whole.
func changedPaths(a, b kinds.Object) (paths []string) {
	compare("", jsonForm(a), jsonForm(b), func(path string, _, _ any) { paths = append(paths, path) })
	return paths
}

// compare calls differs for every list or scalar that is not the same in both maps, in order of the paths.
func compare(prefix string, a, b map[string]any, differs func(path string, was, is any)) {
	names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		path := strings.TrimPrefix(prefix+"."+name, ".")
		// A map that only one side has is compared with an empty one, so that a path always ends in a list or scalar.
		am, aIsMap := a[name].(map[string]any)
		bm, bIsMap := b[name].(map[string]any)
		switch {
		case (aIsMap || a[name] == nil) && (bIsMap || b[name] == nil):
			compare(path, am, bm, differs)
		case !equality.Semantic.DeepEqual(a[name], b[name]):
			differs(path, a[name], b[name])
		}
	}
}

// Check says what makes a decision a bug of its reconciler; the engine refuses to carry such a decision out.
func Check(r Reconciler, v *view.View, key kinds.Key, d loop.Decision) error {
	var owner kinds.Object
	if r.Owner != nil {
		owner = v.Get(key)
	}
	return newWriteRules(r).check(v, owner, d)
}

func jsonForm(o kinds.Object) map[string]any {
	form, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		panic(fmt.Sprintf("engine: %v has no JSON form: %v", kinds.KeyOf(o), err))
	}
	return form
}
