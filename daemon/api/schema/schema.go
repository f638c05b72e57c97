// Package schema publishes what fields the served kinds have, as OpenAPI 3.0 and 2.0: what kubectl explains them by, and wants to
// read before it sends anything.
package schema

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/kinds"
)

// object is one of JSON.
type object = map[string]any

// Path is where a group version's document is, without a slash at its start: "api/v1", "apis/apps/v1".
func Path(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

// Index lists the documents of group versions, each with a mark of the release whose fields they are, by which clients keep
// them.
func Index(gvs []schema.GroupVersion, release string) []byte {
	paths := object{}
	for _, gv := range gvs {
		mark := sha256.Sum256([]byte(release + " " + gv.String()))
		paths[Path(gv)] = object{"serverRelativeURL": fmt.Sprintf("/openapi/v3/%s?hash=%X", Path(gv), mark[:8])}
	}
	return encode(object{"paths": paths})
}

// Document describes the kinds of a group version and every type that they refer to. It takes some milliseconds; clients
// keep what they got.
func Document(gv schema.GroupVersion, release string) []byte {
	m := models{}
	paths := object{}
	for _, k := range kinds.Served() {
		if k.GroupVersion() != gv {
			continue
		}
		paths[pathOf(k)] = operations(k)
		m.kind(k)
	}
	return encode(object{
		"openapi": "3.0.0", "info": object{"title": "Lockstep", "version": release},
		"paths": paths, "components": object{"schemas": m},
	})
}

// kind adds a kind and what it refers to.
func (m models) kind(k *kinds.Kind) {
	m[m.add(typeOf(k))]["x-kubernetes-group-version-kind"] = []object{gvk(k)}
}

func gvk(k *kinds.Kind) object {
	return object{"group": k.Group, "version": k.Version, "kind": k.Kind}
}

func pathOf(k *kinds.Kind) string {
	path := "/" + Path(k.GroupVersion())
	if k.Namespaced {
		path += "/namespaces/{namespace}"
	}
	return path + "/" + k.Resource + "/{name}"
}

// operations are the get, and the patch that is refused: kubectl sends what it was given only where the server checks fields
// and knows dry runs, and has a word of its own for that otherwise.
func operations(k *kinds.Kind) object {
	operation := func(action string, parameters ...string) object {
		query := []object{}
		for _, name := range parameters {
			query = append(query, object{"name": name, "in": "query", "schema": object{"type": "string"}})
		}
		return object{"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(k), "parameters": query, "responses": object{}}
	}
	return object{"get": operation("get"), "patch": operation("patch", "dryRun", "fieldValidation")}
}

func encode(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic("schema: a document is plain data and must be encodable: " + err.Error())
	}
	return out
}
