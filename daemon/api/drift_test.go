package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/sync/found"
)

const killedOn = `{"id":"k1","kind":"ContainerKilled","node":"n1","object":"whatever","what":"exit code 137",` +
	`"noticed":"2026-01-02T03:04:05Z",` +
	`"source":"forged","file":"forged.yaml:1","number":77,"pod":{"namespace":"shop","name":"cart-1-a","uid":"shop-cart-1-a-uid"}}`

// TestDrift: a node tells drift of itself and its pods, where the object comes from is found here, and people read it.
func TestDrift(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declare(kinds.Key{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "cart"}, "cart.yaml", 4)
	report := func(findings ...string) string { return `{"findings":[` + strings.Join(findings, ",") + `]}` }
	alter := func(old, new string) string {
		if !strings.Contains(killedOn, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(killedOn, old, new, 1)
	}
	var many []string
	for i := range drift.MaxFindings + 1 {
		many = append(many, alter(`"k1"`, fmt.Sprintf(`"m%d"`, i)))
	}
	for name, c := range map[string]struct {
		body string
		code int
		text string
	}{
		"no JSON":          {"{", 400, "cannot read the report of drift"},
		"unknown field":    {`{"findings":[],"more":1}`, 400, "unknown field"},
		"no id":            {report(alter(`"k1"`, `""`)), 400, "want id, what and noticed"},
		"no time":          {report(alter(`"noticed":"2026-01-02T03:04:05Z",`, ``)), 400, "want id, what and noticed"},
		"a kind of sync":   {report(alter("ContainerKilled", "Object")), 400, `a node finds none of kind \"Object\"`},
		"an unknown kind":  {report(alter("ContainerKilled", "Nonsense")), 400, `a node finds none of kind \"Nonsense\"`},
		"another node":     {report(alter(`"n1"`, `"n2"`)), 403, "node n1 tells only of itself"},
		"another's pod":    {report(strings.ReplaceAll(killedOn, "cart-1-a", "cart-1-b")), 403, "it is not bound to node n1"},
		"too many":         {report(many...), 413, "at most 64 findings"},
		"much too large":   {report(alter("exit code 137", strings.Repeat("x", maxDrift))), 400, "too large"},
		"nothing is wrong": {report(killedOn), 200, "{}"},
	} {
		if code, body := s.ask(s.node("n1"), "POST", "/lockstep/v1/drift", c.body); code != c.code || !strings.Contains(body, c.text) {
			t.Errorf("%s: %d %s, want %d %s", name, code, body, c.code, c.text)
		}
	}
	for name, c := range map[string]struct {
		method string
		code   int
	}{"viewer": {"POST", 405}, "node": {"GET", 403}} {
		config := s.viewer()
		if name == "node" {
			config = s.node("n1")
		}
		if code, body := s.ask(config, c.method, "/lockstep/v1/drift", report(killedOn)); code != c.code {
			t.Errorf("%s of a %s: %d %s", c.method, name, code, body)
		}
	}
	list := func(query string) (out DriftList) {
		code, body := s.ask(s.viewer(), "GET", "/lockstep/v1/drift"+query, "")
		if err := json.Unmarshal([]byte(body), &out); code != 200 || err != nil || out.Findings == nil {
			t.Fatalf("%s: %d %s %v", query, code, body, err)
		}
		return out
	}
	if got := list(""); len(got.Findings) != 1 {
		t.Fatalf("%+v", got)
	}
	f := list("?source=main&node=n1").Findings[0]
	if f.Object != "Pod shop/cart-1-a" || f.Source != "main" || f.File != "cart.yaml:4" || f.Commit == "" || f.Number != 1 ||
		f.Received.IsZero() {
		t.Errorf("%+v", f)
	}
	for _, query := range []string{"?source=other", "?node=n2"} {
		if got := list(query); len(got.Findings) != 0 {
			t.Errorf("%s: %+v", query, got)
		}
	}
	if row, ok, err := found.Table.Get(s.store.View(), found.OfNode("n1")); !ok || err != nil || len(row.Value.Findings) != 1 {
		t.Errorf("%+v, %v, %v", row, ok, err)
	}
}
