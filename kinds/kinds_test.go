package kinds

import (
	"slices"
	"testing"
)

func TestKeysAsPaths(t *testing.T) {
	for path, key := range map[string]Key{
		"core/pods/shop/cart":        {Resource: "pods", Namespace: "shop", Name: "cart"},
		"core/namespaces/-/shop":     {Resource: "namespaces", Name: "shop"},
		"apps/deployments/shop/a.b":  {Group: "apps", Resource: "deployments", Namespace: "shop", Name: "a.b"},
		"lockstep.dev/sources/-/a":   {Group: "lockstep.dev", Resource: "sources", Name: "a"},
		"core/events/shop/cart.17f2": {Resource: "events", Namespace: "shop", Name: "cart.17f2"},
	} {
		if got := key.Path(); got != path {
			t.Errorf("%v has path %q, want %q", key, got, path)
		}
		if got, err := ParsePath(path); err != nil || got != key {
			t.Errorf("%q parses as %#v, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "core", "core/pods/shop", "core/pods/shop/", "/pods/shop/a"} {
		if key, err := ParsePath(path); err == nil {
			t.Errorf("%q parses as %#v", path, key)
		}
	}
}

func TestKeysInOrderAndInWords(t *testing.T) {
	keys := []Key{
		{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "cart"},
		{Resource: "pods", Namespace: "shop", Name: "b"},
		{Resource: "pods", Namespace: "shop", Name: "a"},
		{Resource: "namespaces", Name: "shop"},
		{Group: "example.com", Resource: "things", Name: "x"},
	}
	slices.SortFunc(keys, Key.Compare)
	var words []string
	for _, k := range keys {
		words = append(words, k.String())
	}
	want := []string{"Namespace shop", "Pod shop/a", "Pod shop/b", "Deployment shop/cart", "things.example.com x"}
	if !slices.Equal(words, want) {
		t.Errorf("got %q, want %q", words, want)
	}
}

func TestTableIsWhole(t *testing.T) {
	for _, k := range All {
		o := k.New()
		if Of(o) != k || ForGVK(k.GroupVersionKind) != k || ForResource(k.GroupResource()) != k {
			t.Errorf("%s is not found by its type, kind and resource", k.Kind)
		}
		if gvks, _, err := Scheme.ObjectKinds(o); err != nil || gvks[0] != k.GroupVersionKind {
			t.Errorf("the scheme knows %s as %v, %v", k.Kind, gvks, err)
		}
		if gvks, _, err := Scheme.ObjectKinds(k.NewList()); err != nil || gvks[0].Kind != k.Kind+"List" {
			t.Errorf("the scheme knows the list of %s as %v, %v", k.Kind, gvks, err)
		}
	}
}
