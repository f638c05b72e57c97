package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lockstep/kinds"
)

// Change is one field that differs; Old or New is empty where the field is absent. Values are JSON, and of a Secret's
// data only "(secret)".
type Change struct {
	Path     string // "spec.template.spec.containers[cart].image"
	Old, New string
}

// Differences lists the fields in which two objects of a kind differ, by path, without status and what the server sets.
// Either may be nil. Elements of lists are paired by name where they have one, else by position.
func Differences(old, new kinds.Object) []Change {
	d := differ{}
	o, n := tree(old), tree(new)
	if old != nil {
		d.secret = kinds.Of(old).Confidential == kinds.Yes
	} else if new != nil {
		d.secret = kinds.Of(new).Confidential == kinds.Yes
	}
	d.value("", o, n)
	return d.changes
}

// stated lists the fields that an entry states: of a new object the defaults are of no interest.
func stated(e Desired) []Change {
	var o map[string]any
	if json.Unmarshal(e.Object, &o) != nil {
		return nil
	}
	kind := kinds.ForResource(e.Key.GroupResource())
	d := differ{secret: kind == nil || kind.Confidential == kinds.Yes}
	delete(o, "apiVersion")
	delete(o, "kind")
	d.value("", nil, o)
	return d.changes
}

func tree(o kinds.Object) any {
	if o == nil {
		return nil
	}
	data, err := encode(o)
	if err != nil {
		return nil
	}
	var m map[string]any
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	for _, key := range []string{"status", "apiVersion", "kind"} {
		delete(m, key)
	}
	if meta, ok := m["metadata"].(map[string]any); ok {
		for _, key := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"} {
			delete(meta, key)
		}
		if len(meta) == 0 {
			delete(m, "metadata")
		}
	}
	return m
}

type differ struct {
	secret  bool
	changes []Change
}

func (d *differ) value(path string, old, new any) {
	om, oldMap := old.(map[string]any)
	nm, newMap := new.(map[string]any)
	if (oldMap || old == nil) && (newMap || new == nil) && (oldMap || newMap) {
		keys := map[string]bool{}
		for k := range om {
			keys[k] = true
		}
		for k := range nm {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			d.value(join(path, k), om[k], nm[k])
		}
		return
	}
	ol, oldList := old.([]any)
	nl, newList := new.([]any)
	if (oldList || old == nil) && (newList || new == nil) && (oldList || newList) {
		d.list(path, ol, nl)
		return
	}
	before, after := d.text(path, old), d.text(path, new)
	if rawText(old) != rawText(new) {
		d.changes = append(d.changes, Change{Path: path, Old: before, New: after})
	}
}

func (d *differ) list(path string, old, new []any) {
	oldNames, ok1 := named(old)
	newNames, ok2 := named(new)
	if !ok1 || !ok2 {
		for i := range max(len(old), len(new)) {
			var o, n any
			if i < len(old) {
				o = old[i]
			}
			if i < len(new) {
				n = new[i]
			}
			d.value(path+"["+strconv.Itoa(i)+"]", o, n)
		}
		return
	}
	names := map[string]bool{}
	for k := range oldNames {
		names[k] = true
	}
	for k := range newNames {
		names[k] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d.value(path+"["+name+"]", oldNames[name], newNames[name])
	}
}

func named(list []any) (map[string]any, bool) {
	m := map[string]any{}
	for _, element := range list {
		o, ok := element.(map[string]any)
		if !ok {
			return nil, false
		}
		name, ok := o["name"].(string)
		if _, twice := m[name]; !ok || twice {
			return nil, false
		}
		m[name] = element
	}
	return m, true
}

func (d *differ) text(path string, v any) string {
	if v == nil {
		return ""
	}
	if d.secret && !strings.HasPrefix(path, "metadata.name") && path != "type" && path != "immutable" {
		return "(secret)"
	}
	return rawText(v)
}

func rawText(v any) string {
	if v == nil {
		return ""
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(data)
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./[") {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// maxPaths bounds a reason's length; the diff has them all.
const maxPaths = 4

func paths(changes []Change) string {
	var list []string
	for i, c := range changes {
		if i == maxPaths {
			return strings.Join(list, ", ") + fmt.Sprintf(" and %d more", len(changes)-maxPaths)
		}
		list = append(list, c.Path)
	}
	return strings.Join(list, ", ")
}

// WriteDiff writes what carrying the plan out would change, an object a paragraph, and says whether that is anything.
func (p *Plan) WriteDiff(w io.Writer) (changes bool, err error) {
	out := &strings.Builder{}
	counts := map[Verb]int{}
	for _, s := range p.Steps {
		counts[s.Verb]++
		place := s.Entry.Place()
		switch s.Verb {
		case Create:
			fmt.Fprintf(out, "+ %v (%s): %s\n", s.Key, place, s.Reason)
			for _, c := range stated(s.Entry) {
				fmt.Fprintf(out, "    + %s: %s\n", c.Path, c.New)
			}
		case Update:
			fmt.Fprintf(out, "~ %v (%s): %s\n", s.Key, place, s.Reason)
			for _, c := range Differences(s.Live, s.Object) {
				writeChange(out, c)
			}
		case Replace:
			counts[Update]++
			fmt.Fprintf(out, "-+ %v (%s): %s\n", s.Key, place, s.Reason)
		case Prune:
			fmt.Fprintf(out, "- %v: %s (was %s)\n", s.Key, s.Reason, place)
		case Remove:
			counts[Prune]++
			fmt.Fprintf(out, "- %v (%s): %s\n", s.Key, place, s.Reason)
		case Wait:
			fmt.Fprintf(out, "? %v (%s): waits, %s\n", s.Key, place, s.Reason)
		}
	}
	if p.Held == "" && !slices.ContainsFunc(p.Inventory, func(d Desired) bool { return d.State != Pruning }) {
		fmt.Fprintln(out, "warning: no manifest is in it; their names end in .yaml, .yml or .json")
	}
	for _, text := range p.WarningTexts() {
		fmt.Fprintf(out, "warning: %s\n", text)
	}
	if p.Held != "" {
		fmt.Fprintf(out, "%s\n", p.Held)
	}
	fmt.Fprintf(out, "%d to create, %d to update, %d to delete, %d as stated\n",
		counts[Create], counts[Update], counts[Prune], len(p.Inventory)-counts[Create]-counts[Update]-counts[Prune]-counts[Wait])
	_, err = io.WriteString(w, out.String())
	return !p.Empty(), err
}

func writeChange(out *strings.Builder, c Change) {
	switch {
	case c.Old == "":
		fmt.Fprintf(out, "    + %s: %s\n", c.Path, c.New)
	case c.New == "":
		fmt.Fprintf(out, "    - %s: %s\n", c.Path, c.Old)
	default:
		fmt.Fprintf(out, "    ~ %s: %s → %s\n", c.Path, c.Old, c.New)
	}
}
