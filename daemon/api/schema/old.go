package schema

import (
	"fmt"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"lockstep/kinds"
)

// Old describes all kinds in one document of OpenAPI 2.0, for clients that know no other. It takes some hundredths of a second,
// and nothing of it is kept.
func Old(release string) []byte {
	m, paths := models{}, object{}
	for _, k := range kinds.Served() {
		m.kind(k)
		paths[pathOf(k)] = operations(k)
	}
	definitions := object{}
	for name, model := range m {
		definitions[name] = model
	}
	return encode(older(object{
		"swagger": "2.0", "info": object{"title": "Lockstep", "version": release}, "paths": paths, "definitions": definitions,
	}))
}

// OldProtobuf encodes what Old returned as gnostic's Document, the only form that client-go asks for. It takes ten times the
// memory of the document while it works.
func OldProtobuf(document []byte) ([]byte, error) {
	parsed, err := openapi_v2.ParseDocument(document)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the schema of OpenAPI 2.0: %w", err)
	}
	return proto.Marshal(parsed)
}

// older rewrites what OpenAPI 2.0 says otherwise: a reference stands beside its description, a parameter has its type.
func older(v any) any {
	switch v := v.(type) {
	case []object:
		out := make([]any, len(v))
		for i := range v {
			out[i] = older(v[i])
		}
		return out
	case object:
		out := make(object, len(v))
		for key, value := range v {
			out[key] = older(value)
		}
		if all, ok := v["allOf"].([]object); ok {
			delete(out, "allOf")
			out["$ref"] = strings.Replace(all[0]["$ref"].(string), "#/components/schemas/", "#/definitions/", 1)
		}
		if typed, ok := v["schema"].(object); ok && v["in"] != nil {
			delete(out, "schema")
			out["type"] = typed["type"]
		}
		return out
	}
	return v
}
