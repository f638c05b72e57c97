package apply

import (
	"encoding/json"
	"fmt"
	"testing"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
	"lockstep/sync/origin"
	"lockstep/sync/plan"
)

func TestInventoriesFollow(t *testing.T) {
	s := memory.New()
	write := func(source, name string, line int) {
		t.Helper()
		d := plan.Desired{
			Source: source,
			Key:    kinds.Key{Resource: "configmaps", Namespace: "shop", Name: name},
			Origin: origin.Origin{File: "a.yaml", Line: line},
		}
		record := &view.Record{Table: string(plan.Inventory), Name: d.RecordName()}
		if line > 0 {
			data, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			record.Data = data
		}
		if r := s.Commit(t.Context(), store.Group{{Record: record, If: store.Anyway}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	var l Inventories
	wants := func(want string) {
		t.Helper()
		var got []string
		entries, err := l.Of(s.View(), "one")
		for _, e := range entries {
			got = append(got, e.Key.Name+" "+e.Place())
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if fmt.Sprint(got) != want {
			t.Errorf("listed %v, want %s", got, want)
		}
	}
	wants("[]")
	write("one", "x", 1)
	write("one", "y", 2)
	write("two", "z", 3)
	wants("[x a.yaml:1 y a.yaml:2]")
	write("one", "x", 7)
	wants("[x a.yaml:7 y a.yaml:2]")
	write("one", "y", 0)
	wants("[x a.yaml:7]")
	wants("[x a.yaml:7]")
	if r := s.Commit(t.Context(), store.Group{{
		Record: &view.Record{Table: string(plan.Inventory), Name: "one/a", Data: []byte(`{"line":"x"}`)},
		If:     store.Anyway,
	}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	const unread = "cannot decode record desired one/a: json: cannot unmarshal string into Go struct field Desired.Origin.line of type int"
	wants("[x a.yaml:7 " + unread + "]")
	wants("[x a.yaml:7 " + unread + "]")
}
