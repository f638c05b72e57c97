package schema

import (
	"maps"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds"
)

// models are the types of a document by name, each as its Go type and its SwaggerDoc describe it: the comments of Kubernetes'
// types, which their generator keeps for this.
type models map[string]object

func typeOf(k *kinds.Kind) reflect.Type { return reflect.TypeOf(k.New()).Elem() }

// as are the types that look different in JSON than in Go.
var as = map[reflect.Type]object{
	reflect.TypeFor[metav1.Time]():          {"type": "string", "format": "date-time"},
	reflect.TypeFor[metav1.MicroTime]():     {"type": "string", "format": "date-time"},
	reflect.TypeFor[metav1.Duration]():      {"type": "string"},
	reflect.TypeFor[metav1.FieldsV1]():      {"type": "object"},
	reflect.TypeFor[resource.Quantity]():    {"type": "string"},
	reflect.TypeFor[intstr.IntOrString]():   {"type": "string", "format": "int-or-string"},
	reflect.TypeFor[runtime.RawExtension](): {"type": "object"},
	reflect.TypeFor[[]byte]():               {"type": "string", "format": "byte"},
}

var basic = map[reflect.Kind]object{
	reflect.Bool: {"type": "boolean"}, reflect.String: {"type": "string"},
	reflect.Int: {"type": "integer"}, reflect.Int32: {"type": "integer", "format": "int32"},
	reflect.Int64: {"type": "integer", "format": "int64"},
	reflect.Uint8: {"type": "integer"}, reflect.Uint32: {"type": "integer"}, reflect.Uint64: {"type": "integer"},
	reflect.Float32: {"type": "number"}, reflect.Float64: {"type": "number", "format": "double"},
}

// add describes a struct and what it refers to, and returns its name.
func (m models) add(t reflect.Type) string {
	name := nameOf(t)
	if m[name] != nil {
		return name
	}
	model := object{"type": "object"}
	m[name] = model // before its fields, which may be of its own type
	properties, required := object{}, []string{}
	m.fields(t, properties, &required)
	if text := docOf(t)[""]; text != "" {
		model["description"] = text
	}
	if len(properties) > 0 {
		model["properties"] = properties
	}
	if len(required) > 0 {
		model["required"] = required
	}
	return name
}

// fields adds a struct's fields, and those of the structs that are inlined in it.
func (m models) fields(t reflect.Type, properties object, required *[]string) {
	docs := docOf(t)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case name == "" && f.Anonymous:
			m.fields(f.Type, properties, required)
			continue
		case name == "":
			continue
		}
		property := m.schema(f.Type)
		if text := docs[name]; text != "" {
			property["description"] = text
		}
		properties[name] = property
		if !strings.Contains(options, "omit") && f.Type.Kind() != reflect.Pointer {
			*required = append(*required, name)
		}
	}
}

// schema is what a value of a type looks like. The result is the caller's.
func (m models) schema(t reflect.Type) object {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if known, ok := as[t]; ok {
		if t.Name() == "" {
			return maps.Clone(known)
		}
		name := nameOf(t)
		m[name] = maps.Clone(known)
		return refer(name)
	}
	if known, ok := basic[t.Kind()]; ok {
		return maps.Clone(known)
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": m.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": m.schema(t.Elem())}
	case reflect.Struct:
		return refer(m.add(t))
	default:
		return object{"type": "object"}
	}
}

// refer leads to a model in a way that lets a description stand beside it: beside a bare $ref nothing else counts.
func refer(name string) object {
	return object{"allOf": []object{{"$ref": "#/components/schemas/" + name}}}
}

// nameOf is Kubernetes' name of its own types, and for others made like it.
func nameOf(t reflect.Type) string {
	if named, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return strings.ReplaceAll(t.PkgPath(), "/", ".") + "." + t.Name()
}

// docOf has a type's description at "", and those of its fields by their names.
func docOf(t reflect.Type) map[string]string {
	if documented, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return documented.SwaggerDoc()
	}
	return nil
}
