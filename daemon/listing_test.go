package daemon

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

func TestListingFollowsTheInventory(t *testing.T) {
	s := memory.New()
	write := func(source, name string, line int) {
		t.Helper()
		d := plan.Desired{Source: source, Key: kinds.Key{Resource: "configmaps", Namespace: "shop", Name: name}, Origin: origin.Origin{File: "a.yaml", Line: line}}
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
	var l listing
	wants := func(want string) {
		t.Helper()
		var got []string
		for _, item := range l.of(s.View(), "one") {
			got = append(got, item.key.Name+" "+item.file)
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
}
