package manifest

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/kinds"
)

// TestFields walks the Go types of every kind that a manifest can state, as far as fields are acted on, and compares
// what is acted on and what is refused with testdata/fields.golden. A field that a new version of Kubernetes adds shows
// up there as refused; whoever lists it in actedOn must have made Lockstep act on it.
func TestFields(t *testing.T) {
	types := map[string]reflect.Type{}
	fields := map[string]map[string]bool{} // type → field → listed
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || decodesItself(typ) {
			return
		}
		s := structureOf(typ)
		for _, name := range s.names {
			f := s.fields[name]
			if fields[f.owner] == nil {
				fields[f.owner] = map[string]bool{}
			}
			_, walked := fields[f.owner][name]
			fields[f.owner][name] = actedOn[f.owner][name]
			if !walked && actedOn[f.owner][name] {
				walk(f.typ)
			}
		}
		if other, found := types[typ.Name()]; found && other != typ {
			t.Errorf("two types are named %s: %v and %v; the table cannot tell them apart", typ.Name(), typ, other)
		}
		types[typ.Name()] = typ
	}
	for _, k := range kinds.All {
		if k.Declarable {
			walk(reflect.TypeOf(k.New()))
		}
	}

	for owner, names := range actedOn {
		for name := range names {
			if _, found := fields[owner][name]; !found {
				t.Errorf("the table lists %s.%s, which no kind reaches", owner, name)
			}
		}
	}
	for field := range allowedValues {
		owner, name, _ := strings.Cut(field, ".")
		if !actedOn[owner][name] {
			t.Errorf("allowedValues has %s, which is not acted on", field)
		}
	}

	var b strings.Builder
	for _, owner := range sortedKeys(fields) {
		for _, name := range sortedKeys(fields[owner]) {
			verdict := "refused"
			if fields[owner][name] {
				verdict = "acted on"
			}
			fmt.Fprintf(&b, "%s.%s: %s\n", owner, name, verdict)
		}
	}
	golden(t, "testdata/fields.golden", b.String())
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", name, diff)
	}
}
