package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lockstep/internal/golden"
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
		other, found := types[typ.Name()]
		if found && other != typ && !slices.Equal(sortedKeys(structureOf(other).fields), sortedKeys(s.fields)) {
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
	for field := range refusedBecause {
		owner, name, _ := strings.Cut(field, ".")
		if acted, found := fields[owner][name]; acted || !found {
			t.Errorf("refusedBecause has %s, which is acted on, or no field", field)
		}
	}

	var b strings.Builder
	for _, owner := range sortedKeys(fields) {
		for _, name := range sortedKeys(fields[owner]) {
			verdict := "refused"
			if fields[owner][name] {
				verdict = "acted on"
				if values := allowedValues[owner+"."+name]; values != nil {
					verdict = fmt.Sprintf("acted on: %q", values)
				}
			}
			fmt.Fprintf(&b, "%s.%s: %s\n", owner, name, verdict)
		}
	}
	golden.File(t, "testdata/fields.golden", b.String())
}

// withoutDefault are refused fields whose type tells a zero from nothing, and why no value of theirs is what holds anyway.
func withoutDefault() map[string]string {
	const named, defaulted = "names something, of which there is none", "Kubernetes' defaulting states it"
	const gated = "behind a gate that Kubernetes keeps closed: its server drops it"
	return map[string]string{
		"CSIDriverSpec.nodeAllocatableUpdatePeriodSeconds": "without it nothing is asked again",
		"ConfigMapVolumeSource.defaultUser":                gated,
		"DownwardAPIVolumeFile.user":                       gated,
		"DownwardAPIVolumeSource.defaultUser":              gated,
		"EmptyDirVolumeSource.mode":                        gated,
		"GRPCAction.mode":                                  gated,
		"HTTPGetAction.protocol":                           gated,
		"KeyToPath.user":                                   gated,
		"ObjectMeta.deletionGracePeriodSeconds":            "dropped: a server's",
		"ProjectedVolumeSource.defaultUser":                gated,
		"SecretVolumeSource.defaultUser":                   gated,
		"ServiceAccountTokenProjection.user":               gated,
		"ServiceSpec.trafficDistribution":                  named,

		"PersistentVolumeClaimSpec.volumeAttributesClassName": named,
		"PersistentVolumeSpec.volumeAttributesClassName":      named,
	}
}

// TestDefaultsOfRefusedFields wants somebody to have looked for the default of each refused field that is a pointer to a
// plain value. A field that has one belongs to allowedValues. All others may be stated empty.
func TestDefaultsOfRefusedFields(t *testing.T) {
	reasons := withoutDefault()
	var walk func(reflect.Type)
	walked := map[reflect.Type]bool{}
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || decodesItself(typ) || walked[typ] {
			return
		}
		walked[typ] = true
		s := structureOf(typ)
		for _, name := range s.names {
			f := s.fields[name]
			field := f.owner + "." + name
			if actedOn[f.owner][name] {
				walk(f.typ)
				continue
			}
			switch of := indirect(f.typ); {
			case of.Kind() == reflect.Struct && !decodesItself(of):
				if empty := (&node{shape: mapping}); nothing(empty, f.typ, unions[f.owner]) == unions[f.owner] {
					t.Errorf("%s: {} is a statement: %v", field, !unions[f.owner])
				}
			case f.typ.Kind() == reflect.Pointer && !decodesItself(of):
				if reasons[field] == "" {
					t.Errorf("%s: which value holds where it is not stated? If one does, list it in allowedValues", field)
				}
				delete(reasons, field)
			}
		}
	}
	for _, k := range kinds.All {
		if k.Declarable {
			walk(reflect.TypeOf(k.New()))
		}
	}
	for field := range reasons {
		t.Errorf("%s is no refused pointer", field)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
