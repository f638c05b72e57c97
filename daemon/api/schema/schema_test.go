package schema

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/kinds"
)

// TestDocuments describes every kind: each reference leads somewhere, and every field of a kind is there.
func TestDocuments(t *testing.T) {
	seen := map[schema.GroupVersion]bool{}
	for _, k := range kinds.All {
		gv := k.GroupVersion()
		if seen[gv] {
			continue
		}
		seen[gv] = true
		data := Document(gv, "test")
		var doc struct {
			Paths      map[string]any
			Components struct{ Schemas map[string]map[string]any }
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Components.Schemas[nameOf(typeOf(k))]["x-kubernetes-group-version-kind"] == nil || doc.Paths[pathOf(k)] == nil {
			t.Errorf("%s is not described", k.Kind)
		}
		for _, part := range strings.Split(string(data), `"$ref":"#/components/schemas/`)[1:] {
			name, _, _ := strings.Cut(part, `"`)
			if doc.Components.Schemas[name] == nil {
				t.Errorf("%s refers to %s, which is nothing", gv, name)
			}
		}
		t.Logf("%s has %d bytes, %d types", gv, len(data), len(doc.Components.Schemas))
	}
	core := Document(schema.GroupVersion{Version: "v1"}, "test")
	for _, want := range []string{
		`"terminationGracePeriodSeconds":{"description":"Optional duration in seconds`, `"required":["containers"]`, `"int-or-string"`,
		`"configMap":{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.ConfigMapVolumeSource"}]`, // of the inlined VolumeSource
	} {
		if !strings.Contains(string(core), want) {
			t.Errorf("the core group's document has no %s", want)
		}
	}
}
