package reconcilers

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"lockstep/kinds"
	"lockstep/reconcilers/looptest"
	"lockstep/store/view"
)

// TestConditionsOfProgramsStay decides all cases again with a condition that a program has set in every status that may have one: what
// is written has it, too.
func TestConditionsOfProgramsStay(t *testing.T) {
	written := map[string]int{}
	for dir, r := range decided() {
		cases, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range cases {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objects, key, now := looptest.Case(t, archive)
			for _, o := range objects {
				if k := kinds.Of(o); k.Conditions != nil {
					list := k.ConditionsOf(o)
					c := reflect.New(list.Type().Elem()).Elem()
					c.FieldByName("Type").SetString("example.com/Seen")
					list.Set(reflect.Append(list, c))
				}
			}
			d, err := r.Decide(view.Of(objects...).Only(r.Sees()), key, now)
			if err != nil {
				continue // it writes nothing
			}
			writes := []kinds.Object{d.Status}
			if d.IfRefused != nil {
				writes = append(writes, d.IfRefused(errors.New("refused")))
			}
			for _, w := range d.Wants {
				writes = append(writes, w.Object)
			}
			for _, o := range writes {
				if o == nil || o.GetUID() == "" || kinds.Of(o).Conditions == nil {
					continue
				}
				written[kinds.Of(o).Kind]++
				list, kept := kinds.Of(o).ConditionsOf(o), false
				for i := range list.Len() {
					kept = kept || list.Index(i).FieldByName("Type").String() == "example.com/Seen"
				}
				if !kept {
					t.Errorf("%s: what a program has told of %v is lost", file, kinds.KeyOf(o))
				}
			}
		}
	}
	for _, k := range kinds.All {
		if k.Conditions != nil && written[k.Kind] == 0 {
			t.Errorf("no case writes a %s", k.Kind)
		}
	}
}
