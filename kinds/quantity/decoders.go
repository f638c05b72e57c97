package quantity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
)

// InJSON checks the quantities of a JSON value that is to be decoded into a value of into's type. Broken JSON, and what
// does not fit the type, is left to the decoder.
func InJSON(data []byte, into any) error {
	t := reflect.TypeOf(into)
	if !bears(t) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return inJSON(d, t)
}

// InProtobuf checks the quantities of a message of into's type, which has Kubernetes' generated tags. A broken message is
// left to the decoder.
func InProtobuf(data []byte, into any) error {
	t := reflect.TypeOf(into)
	if !bears(t) {
		return nil
	}
	return inMessage(data, t)
}

var quantity = reflect.TypeFor[resource.Quantity]()

// structure is where a struct type has quantities, at any depth.
type structure struct {
	json  map[string]reflect.Type // by lower-case name
	proto map[protowire.Number]reflect.Type
}

// structures and bearers cache what types say of themselves, which does not change.
var structures, bearers sync.Map

// bears says that a value of the type may have a quantity in it.
func bears(t reflect.Type) bool {
	if known, found := bearers.Load(t); found {
		return known.(bool)
	}
	found := reaches(t, map[reflect.Type]bool{})
	bearers.Store(t, found)
	return found
}

func reaches(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == quantity || t == nil || seen[t] {
		return t == quantity
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return reaches(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if reaches(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}

func structureOf(t reflect.Type) *structure {
	if known, found := structures.Load(t); found {
		return known.(*structure)
	}
	s := &structure{json: map[string]reflect.Type{}, proto: map[protowire.Number]reflect.Type{}}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || !bears(f.Type) {
			continue
		}
		if tag := strings.Split(f.Tag.Get("protobuf"), ","); len(tag) > 1 {
			var n protowire.Number
			if _, err := fmt.Sscan(tag[1], &n); err == nil {
				s.proto[n] = f.Type
			}
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && (name == "" || strings.Contains(options, "inline")) {
			for name, inner := range structureOf(indirect(f.Type)).json {
				s.json[name] = inner
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		s.json[strings.ToLower(name)] = f.Type
	}
	structures.Store(t, s)
	return s
}

func indirect(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// inJSON reads one value. It goes no deeper than the type does, and by key, so that one that stands twice is read twice.
func inJSON(d *json.Decoder, t reflect.Type) error {
	t = indirect(t)
	if t == nil || !bears(t) {
		return skip(d)
	}
	token, err := d.Token()
	if err != nil {
		return nil //nolint:nilerr // the decoder tells it
	}
	switch token := token.(type) {
	case json.Number:
		return checkAs(t, token.String())
	case string:
		return checkAs(t, token)
	case json.Delim:
		return within(d, t, token)
	}
	return nil
}

func checkAs(t reflect.Type, text string) error {
	if t != quantity {
		return nil
	}
	return Check(text)
}

// within reads what is in a list or an object whose beginning has been read.
func within(d *json.Decoder, t reflect.Type, begin json.Delim) error {
	for d.More() {
		var of reflect.Type
		if begin == '[' && t.Kind() == reflect.Slice {
			of = t.Elem()
		}
		if begin == '{' {
			key, err := d.Token()
			name, ok := key.(string)
			if err != nil || !ok {
				return nil //nolint:nilerr // the decoder tells it
			}
			switch {
			case t.Kind() == reflect.Map:
				of = t.Elem()
			case t.Kind() == reflect.Struct && t != quantity:
				of = structureOf(t).json[strings.ToLower(name)]
			}
		}
		before := d.InputOffset()
		if err := inJSON(d, of); err != nil {
			return err
		}
		if d.InputOffset() == before {
			return nil // it is broken here
		}
	}
	_, _ = d.Token()
	return nil
}

func skip(d *json.Decoder) error {
	var ignored json.RawMessage
	_ = d.Decode(&ignored)
	return nil
}

// inMessage reads the fields of a message; t is a struct, or what a field of one has.
func inMessage(data []byte, t reflect.Type) error {
	t = indirect(t)
	return eachField(data, func(value []byte, number protowire.Number) error { return inField(value, t, number) })
}

// eachField shows the fields that have bytes, up to where the message is broken.
func eachField(data []byte, visit func([]byte, protowire.Number) error) error {
	for len(data) > 0 {
		number, kind, tag := protowire.ConsumeTag(data)
		if tag < 0 {
			return nil
		}
		size := protowire.ConsumeFieldValue(number, kind, data[tag:])
		if size < 0 {
			return nil
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data[tag:])
			if err := visit(value, number); err != nil {
				return err
			}
		}
		data = data[tag+size:]
	}
	return nil
}

func inField(value []byte, t reflect.Type, number protowire.Number) error {
	if t == quantity {
		if number == 1 {
			return Check(string(value))
		}
		return nil
	}
	of := structureOf(t).proto[number]
	if of == nil {
		return nil
	}
	of = indirect(of)
	if of.Kind() == reflect.Slice {
		of = indirect(of.Elem())
	}
	if of.Kind() == reflect.Map {
		return inEntry(value, of.Elem())
	}
	return inMessage(value, of)
}

// inEntry reads a map's entry, whose value is field 2.
func inEntry(data []byte, t reflect.Type) error {
	return eachField(data, func(value []byte, number protowire.Number) error {
		if number != 2 {
			return nil
		}
		return inMessage(value, t)
	})
}
