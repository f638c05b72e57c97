package view

import (
	"slices"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	type row struct {
		N int `json:"n"`
	}
	const rows Table[row] = "rows"
	db := NewDB()
	db.Apply(7, []Change{
		{NewRecord: rows.Record("a/1", row{1})}, {NewRecord: rows.Record("a/2", row{2})}, {NewRecord: rows.Record("b/1", row{3})},
		{NewRecord: &Record{Table: "rows", Name: "a/bad", Data: []byte(`{"n":"x"}`)}},
		{NewRecord: &Record{Table: "rowsmore", Name: "a/3", Data: []byte(`{}`)}},
	})
	v := db.View()
	if got, ok, err := rows.Get(v, "a/2"); got.Name != "a/2" || got.Value.N != 2 || !ok || err != nil {
		t.Error(got, ok, err)
	}
	if got, ok, err := rows.Get(v, "a/9"); got != (Row[row]{}) || ok || err != nil {
		t.Error("a row that is not there:", got, ok, err)
	}
	if _, ok, err := rows.Get(v, "a/bad"); !ok || err == nil || !strings.HasPrefix(err.Error(), "cannot decode record rows a/bad: ") {
		t.Error("a row that cannot be read:", ok, err)
	}
	var names []string
	sum, bad := 0, 0
	for r, err := range rows.Rows(v, "a/") {
		names = append(names, r.Name)
		sum += r.Value.N
		if err != nil {
			bad++
		}
	}
	if !slices.Equal(names, []string{"a/1", "a/2", "a/bad"}) || sum != 3 || bad != 1 {
		t.Error(names, sum, bad)
	}
	if got := slices.Collect(rows.Names(v, "")); !slices.Equal(got, []string{"a/1", "a/2", "a/bad", "b/1"}) {
		t.Error(got)
	}
	if got := db.Apply(8, []Change{{OldRecord: rows.Gone("a/1")}}); len(got) != 1 || got[0].OldRecord.Name != "a/1" {
		t.Error("deleting changes", got)
	}
}
