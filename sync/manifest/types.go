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
