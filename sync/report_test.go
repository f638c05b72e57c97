package sync

import (
	"strings"
	"testing"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/sync/found"

	corev1 "k8s.io/api/core/v1"
)

// TestDriftIsOnlyTold: of a source with drift: report what is changed or deleted by hand stays until a push, and is told; an object
// may say otherwise of itself.
func TestDriftIsOnlyTold(t *testing.T) {
	w := newWorld(t)
	const head, data = "kind: ConfigMap\napiVersion: v1\nmetadata: ", "\ndata: {a: '1'}\n"
	settings := head + "{name: settings, namespace: shop}" + data
	kept := head + "{name: kept, namespace: shop, annotations: {lockstep.dev/drift: repair}}" + data
	sha := w.push("first", map[string]string{"cart.yaml": cart, "settings.yaml": settings, "kept.yaml": kept})
	s, _ := w.start(func(o *Options) { o.Sources[0].Spec.Drift = v1alpha1.DriftReport })
	w.rollOut()
	w.receives(sha, "success: 4 objects in sync and healthy")
	value := func(name string) string {
		if c, ok := w.store.View().Get(kinds.For[*corev1.ConfigMap]().Key("shop", name)).(*corev1.ConfigMap); ok {
			return c.Data["a"]
		}
		return "gone"
	}
	change := func(name string) {
		c := w.store.View().Get(kinds.For[*corev1.ConfigMap]().Key("shop", name)).DeepCopyObject().(*corev1.ConfigMap)
		c.Data = map[string]string{"a": "2"}
		if err := w.put(c); err != nil {
			t.Fatal(err)
		}
	}
	change("settings")
	change("kept")
	w.until("the object that says so is repaired", func() bool { return value("kept") == "1" })
	recorded := func(repaired bool) func() bool {
		return func() bool {
			all, _ := found.In(w.store.View(), found.Filter{Source: "shop"})
			for _, f := range all {
				if f.Kind == drift.Object && strings.HasPrefix(f.ID, "told/") && f.Object == "ConfigMap shop/settings" {
					return repaired == !f.Repaired.IsZero() && f.What == "changed by hand: data.a"
				}
			}
			return false
		}
	}
	w.until("the other is recorded", recorded(false))
	w.until("it is in the status", func() bool { return w.status().Drift == "ConfigMap shop/settings: changed by hand: data.a" })
	w.until("the forge is told", func() bool {
		list := strings.Join(w.texts(sha, judged+"/drift"), "\n")
		return strings.Contains(list, "failure: ConfigMap shop/settings: changed by hand: data.a")
	})
	if value("settings") != "2" || w.status().State != "success" {
		t.Errorf("settings have %s, the status is %+v", value("settings"), w.status())
	}
	key := kinds.For[*corev1.ConfigMap]().Key("shop", "settings")
	if r := w.store.Commit(t.Context(), store.Group{{Key: key, If: store.Anyway}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	w.until("its loss is in the status", func() bool { return strings.Contains(w.status().Drift, "ConfigMap shop/settings") })
	if value("settings") != "gone" {
		t.Error("what was deleted came back without a push")
	}
	w.push("second", map[string]string{"kept.yaml": strings.Replace(kept, "'1'", "'3'", 1)})
	s.poke()
	w.until("the push repairs it", func() bool { return value("settings") == "1" && value("kept") == "3" })
	w.until("nothing differs", func() bool { return w.status().Drift == "" && w.status().State == "success" })

	bad := w.push("bad", map[string]string{"kept.yaml": strings.Replace(kept, "drift: repair", "drift: ignore", 1)})
	s.poke()
	w.receives(bad, "error: kept.yaml:1: ConfigMap shop/kept: metadata.annotations: lockstep.dev/drift: want repair or report, "+
		`got "ignore"`)
}
