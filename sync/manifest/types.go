package manifest

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// structure is what JSON sees of a Go struct.
type structure struct {
	fields map[string]structField
	names  []string
}

type structField struct {
	// owner is the name of the struct type that declares the field: with embedding not the one it was found in.
	owner string
	typ   reflect.Type
}

// structures caches structureOf: the types of an API do not change.
var structures sync.Map // reflect.Type → *structure

// structureOf returns the JSON fields of a struct type, those of embedded structs included.
func structureOf(t reflect.Type) *structure {
	if s, ok := structures.Load(t); ok {
		return s.(*structure)
	}
	s := &structure{fields: map[string]structField{}}
	s.add(t)
	structures.Store(t, s)
	return s
}

func (s *structure) add(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && (name == "" || strings.Contains(options, "inline")):
			s.add(indirect(f.Type))
		default:
			if name == "" {
				name = f.Name
			}
			s.fields[name] = structField{owner: t.Name(), typ: f.Type}
			s.names = append(s.names, name)
		}
	}
}

func indirect(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// decodesItself says that a type has a JSON form of its own: quantities, times, numbers or strings.
func decodesItself(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshaler) }

// nearest returns the name that a misspelt one was most likely meant to be, or "".
func nearest(name string, names []string) string {
	best, distance := "", max(len(name)/3, 1)+1
	for _, candidate := range names {
		if strings.EqualFold(candidate, name) {
			return candidate
		}
		if d := editDistance(strings.ToLower(name), strings.ToLower(candidate)); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours between two names (optimal string
// alignment). Names longer than any field's are infinitely far.
func editDistance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	var rows [3][longest + 1]int
	for j := range len(b) + 1 {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row := &rows[(i+2)%3], &rows[i%3], &rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
