package view

import (
	"encoding/json"
	"fmt"
	"iter"
)

// Table is the name of a table of records whose data are all a T as JSON. Whoever writes the table declares it, and
// everybody reads it through that.
type Table[T any] string

// Row is what one record says.
type Row[T any] struct {
	Name     string
	Value    T
	Revision int64 // etcd mod revision
}

// Decode reads a record of the table.
func (t Table[T]) Decode(r Record) (Row[T], error) {
	row := Row[T]{Name: r.Name, Revision: r.Revision}
	if r.Unreadable != "" {
		return row, fmt.Errorf("cannot read record %s %s: %s", string(t), r.Name, r.Unreadable)
	}
	if err := json.Unmarshal(r.Data, &row.Value); err != nil {
		return row, fmt.Errorf("cannot decode record %s %s: %w", string(t), r.Name, err)
	}
	return row, nil
}

// Get returns the row of that name; false, and the zero row, where there is none. A row that cannot be decoded is there, and
// an error.
func (t Table[T]) Get(v *View, name string) (Row[T], bool, error) {
	r, ok := v.Record(string(t), name)
	if !ok {
		return Row[T]{}, false, nil
	}
	row, err := t.Decode(r)
	return row, true, err
}

// Rows yields the rows whose name starts with prefix, in order of their names; one that cannot be decoded has its name and
// comes with an error.
func (t Table[T]) Rows(v *View, prefix string) iter.Seq2[Row[T], error] {
	return func(yield func(Row[T], error) bool) {
		for r := range v.Records(string(t), prefix) {
			if !yield(t.Decode(r)) {
				return
			}
		}
	}
}

// Names yields the names that start with prefix, in order; nothing is decoded.
func (t Table[T]) Names(v *View, prefix string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for r := range v.Records(string(t), prefix) {
			if !yield(r.Name) {
				return
			}
		}
	}
}

// Record is what a row of that name and value is stored as.
func (t Table[T]) Record(name string, value T) *Record {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("view: a row of %s must encode: %v", string(t), err)) // its type is the program's own
	}
	return &Record{Table: string(t), Name: name, Data: data}
}

// Gone is the record that is deleted where no row of that name is to be.
func (t Table[T]) Gone(name string) *Record { return &Record{Table: string(t), Name: name} }
