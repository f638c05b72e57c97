package schema

import (
	"encoding/json"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	gproto "google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/util/proto"

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

// TestOld: every reference leads somewhere, also as client-go reads the document, which has each kind.
func TestOld(t *testing.T) {
	data := Old("test")
	encoded, err := OldProtobuf(data)
	if err != nil {
		t.Fatal(err)
	}
	var document openapi_v2.Document
	if err := gproto.Unmarshal(encoded, &document); err != nil {
		t.Fatal(err)
	}
	models, err := proto.NewOpenAPIData(&document)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.All {
		model := models.LookupModel(nameOf(typeOf(k)))
		if model == nil || model.GetExtensions()["x-kubernetes-group-version-kind"] == nil {
			t.Errorf("%s is not described", k.Kind)
		}
	}
	for _, left := range []string{"components/schemas", `"allOf"`} {
		if strings.Contains(string(data), left) {
			t.Errorf("it has %s, which is of OpenAPI 3.0", left)
		}
	}
	t.Logf("%d bytes, %d of protobuf", len(data), len(encoded))
}

func BenchmarkOld(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		if _, err := OldProtobuf(Old("test")); err != nil {
			b.Fatal(err)
		}
	}
}
