package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"lockstep/kinds"
	"lockstep/kinds/quantity"
)

// merge gives live the fields that are stated now, takes from it those that were stated before and no longer are, and
// leaves every other field to its owner: Kubernetes' three-way strategic merge, lists by their merge keys. It returns
// nil where nothing differs, and never changes live.
func merge(before, now json.RawMessage, live kinds.Object) (kinds.Object, error) {
	kind := kinds.Of(live)
	current, err := encode(live)
	if err != nil {
		return nil, err
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(live)
	if err != nil {
		return nil, fmt.Errorf("cannot merge %v: %w", kinds.KeyOf(live), err)
	}
	schema := schema{meta, repeated(before, now, current)}
	patch, err := strategicpatch.CreateThreeWayMergePatch(before, now, current, schema, true)
	if err != nil {
		return nil, fmt.Errorf("cannot merge %v: what is stated does not fit its type", kinds.KeyOf(live))
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	merged, err := strategicpatch.StrategicMergePatchUsingLookupPatchMeta(current, patch, schema)
	if err != nil {
		return nil, fmt.Errorf("cannot merge %v: what is stated does not fit its type", kinds.KeyOf(live))
	}
	o := kind.New()
	if err := quantity.InJSON(merged, o); err != nil {
		return nil, fmt.Errorf("cannot merge %v: %w", kinds.KeyOf(live), err)
	}
	if err := json.Unmarshal(merged, o); err != nil {
		return nil, fmt.Errorf("cannot merge %v: what is stated does not fit its type", kinds.KeyOf(live))
	}
	o.GetObjectKind().SetGroupVersionKind(live.GetObjectKind().GroupVersionKind())
	return o, nil
}

// encode writes an object as JSON with apiVersion and kind, whether or not it carries them.
func encode(o kinds.Object) ([]byte, error) {
	if gvk := kinds.Of(o).GroupVersionKind; o.GetObjectKind().GroupVersionKind() != gvk {
		o = o.DeepCopyObject().(kinds.Object)
		o.GetObjectKind().SetGroupVersionKind(gvk)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %v: %w", kinds.KeyOf(o), err)
	}
	return data, nil
}

// schema is Kubernetes' merge metadata, with lists whose merge key is not unique in this object (one port by TCP and
// UDP) replaced whole, because merging by that key would lose elements.
type schema struct {
	strategicpatch.LookupPatchMeta
	whole map[string]bool
}

func (s schema) LookupPatchMetadataForStruct(key string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	sub, meta, err := s.LookupPatchMeta.LookupPatchMetadataForStruct(key)
	return schema{sub, s.whole}, meta, err
}

func (s schema) LookupPatchMetadataForSlice(key string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	sub, meta, err := s.LookupPatchMeta.LookupPatchMetadataForSlice(key)
	if err == nil && s.whole[key] {
		meta = strategicpatch.PatchMeta{}
	}
	return schema{sub, s.whole}, meta, err
}

// mergeKeys are the merge keys whose values Kubernetes' validation lets repeat.
func mergeKeys() map[string][]string {
	return map[string][]string{
		"ports":                     {"containerPort", "port"},
		"env":                       {"name"},
		"topologySpreadConstraints": {"topologyKey"},
		"imagePullSecrets":          {"name"},
		"hostAliases":               {"ip"},
		"secrets":                   {"name"},
	}
}

// repeated returns the names of the lists, anywhere in the documents, in which a merge key repeats.
func repeated(documents ...[]byte) map[string]bool {
	keys := mergeKeys()
	var found map[string]bool
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				list, isList := value.([]any)
				if isList && len(list) > 1 && repeats(list, keys[name]) {
					if found == nil {
						found = map[string]bool{}
					}
					found[name] = true
				}
				walk(value)
			}
		case []any:
			for _, element := range v {
				walk(element)
			}
		}
	}
	for _, document := range documents {
		if !mayRepeat(document) {
			continue
		}
		var v any
		if json.Unmarshal(document, &v) == nil {
			walk(v)
		}
	}
	return found
}

// mayRepeat spares most documents the decoding.
func mayRepeat(document []byte) bool {
	return bytes.Count(document, []byte(`ort":`)) > 1 || bytes.Contains(document, []byte(`"env":`)) ||
		bytes.Contains(document, []byte(`"topologySpread`)) || bytes.Contains(document, []byte(`"imagePullS`)) ||
		bytes.Contains(document, []byte(`"hostAliases`)) || bytes.Contains(document, []byte(`"secrets":`))
}

func repeats(list []any, keys []string) bool {
	for _, key := range keys {
		seen := map[any]bool{}
		for _, element := range list {
			m, ok := element.(map[string]any)
			if !ok {
				continue
			}
			value, ok := m[key]
			if !ok || !reflect.TypeOf(value).Comparable() {
				continue
			}
			if seen[value] {
				return true
			}
			seen[value] = true
		}
	}
	return false
}
