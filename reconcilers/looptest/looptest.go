// Package looptest tests what reconcilers decide against golden files.
package looptest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Now is the time at which cases are decided unless they state another in a file named "now".
var Now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// Golden decides every case dir/*.txtar. A case has the files "given", objects as YAML documents, "key" as
// Resource[.group]/namespace/name ("-" for no namespace; left out for a loop about the whole cluster), perhaps "now" (RFC
// 3339), and "want", the decision as text. Objects get uid "<kind>-<name>" and the creation time an hour before, where
// they state none, and Kubernetes' defaults. A decision that the engine would refuse, or that changed an object of the
// view, fails the test.
func Golden(t *testing.T, dir string, r loop.Reconciler) {
	t.Helper()
	golden.Cases(t, dir, func(t *testing.T, c *txtar.Archive) string { return decide(t, r, c) })
}

func decide(t *testing.T, r loop.Reconciler, archive *txtar.Archive) string {
	t.Helper()
	objects, key, now := Case(t, archive)
	v := view.Of(objects...)
	before := Fingerprint(v)
	d, err := r.Decide(v.Only(r.Sees()), key, now)
	if Fingerprint(v) != before {
		t.Error("the decision changed an object of the view")
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	if err := engine.Check(r, v, key, d); err != nil {
		t.Errorf("the engine would refuse this: %v", err)
	}
	return Text(v, key, d)
}

// Case reads what a case of Golden gives: its objects, which nobody else has, and what is decided about, when.
func Case(t *testing.T, archive *txtar.Archive) (objects []kinds.Object, key kinds.Key, now time.Time) {
	t.Helper()
	key, now = loop.ClusterKey(), Now
	if text := strings.TrimSpace(golden.Section(archive, "now")); text != "" {
		var err error
		if now, err = time.Parse(time.RFC3339, text); err != nil {
			t.Fatal(err)
		}
	}
	if text := strings.TrimSpace(golden.Section(archive, "key")); text != "" {
		resource, rest, _ := strings.Cut(text, "/")
		namespace, name, _ := strings.Cut(rest, "/")
		gr := schema.ParseGroupResource(resource)
		key = kinds.Key{Group: gr.Group, Resource: gr.Resource, Namespace: strings.Trim(namespace, "-"), Name: name}
	}
	return Parse(t, golden.Section(archive, "given")), key, now
}

// Fingerprint is a hash of everything in a view, to find out whether something changed an object.
func Fingerprint(v *view.View) string {
	h := sha256.New()
	for _, k := range kinds.All {
		for o := range v.List(k.GroupResource(), "") {
			if err := json.NewEncoder(h).Encode(o); err != nil {
				panic(fmt.Sprintf("looptest: %v has no JSON form: %v", kinds.KeyOf(o), err))
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Parse reads objects from YAML documents and completes them as Golden says.
func Parse(t *testing.T, text string) (objects []kinds.Object) {
	t.Helper()
	for i, doc := range strings.Split(text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
			t.Fatalf("document %d: %v", i+1, err)
		}
		kind := kinds.ForGVK(schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind))
		if kind == nil {
			t.Fatalf("document %d: no kind %q %q", i+1, meta.APIVersion, meta.Kind)
		}
		o := kind.New()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("document %d: %v", i+1, err)
		}
		strategy.Default(o)
		if o.GetUID() == "" {
			o.SetUID(types.UID(strings.ToLower(kind.Kind) + "-" + o.GetName()))
		}
		if created := o.GetCreationTimestamp(); created.IsZero() {
			o.SetCreationTimestamp(metav1.NewTime(Now.Add(-time.Hour)))
		}
		o.SetResourceVersion(fmt.Sprint(i + 1))
		objects = append(objects, o)
	}
	return objects
}

// Text writes a decision for people: each want with what it changes and why, drops, status, events.
func Text(v *view.View, key kinds.Key, d loop.Decision) string {
	var b strings.Builder
	for _, w := range d.Wants {
		old := v.Get(kinds.KeyOf(w.Object))
		switch {
		case w.Object.GetUID() == "":
			fmt.Fprintf(&b, "create %s: %s\n%s", nameOf(w.Object), w.Reason, body(w.Object))
		case old == w.Object || len(engine.Changes(old, w.Object)) == 0:
			fmt.Fprintf(&b, "keep %v: %s\n", kinds.KeyOf(w.Object), w.Reason)
			continue
		default:
			fmt.Fprintf(&b, "update %v: %s\n", kinds.KeyOf(w.Object), w.Reason)
			for _, line := range engine.Changes(old, w.Object) {
				fmt.Fprintf(&b, "    %s\n", line)
			}
		}
		writeEvent(&b, "    done: ", w.Done)
		writeEvent(&b, "    failed: ", w.Failed)
	}
	for _, drop := range d.Drops {
		verb := "drop"
		if drop.Now {
			verb = "drop at once"
		}
		fmt.Fprintf(&b, "%s %v: %s\n", verb, drop.Key, drop.Reason)
		if drop.As != nil {
			for _, line := range engine.Changes(v.Get(drop.Key), drop.As) {
				fmt.Fprintf(&b, "    %s\n", line)
			}
		}
		writeEvent(&b, "    done: ", drop.Done)
	}
	if d.Status != nil {
		fmt.Fprintln(&b, "status")
		for _, line := range engine.Changes(v.Get(key), d.Status) {
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	for _, e := range d.Events {
		writeEvent(&b, "event ", &e)
	}
	if !d.Again.IsZero() {
		fmt.Fprintf(&b, "again at %s\n", d.Again.UTC().Format(time.RFC3339))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func nameOf(o kinds.Object) string {
	if o.GetName() != "" {
		return kinds.KeyOf(o).String()
	}
	return kinds.Of(o).Key(o.GetNamespace(), o.GetGenerateName()+"*").String()
}

// body is a new object's content, without the names that are said already.
func body(o kinds.Object) string {
	form, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		panic(fmt.Sprintf("looptest: no JSON form: %v", err))
	}
	delete(form, "status")
	meta := form["metadata"].(map[string]any)
	for _, f := range []string{"name", "generateName", "namespace", "creationTimestamp"} {
		delete(meta, f)
	}
	text, err := yaml.Marshal(form)
	if err != nil {
		panic(fmt.Sprintf("looptest: no YAML form: %v", err))
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(text)) {
		b.WriteString("    " + line)
	}
	return b.String()
}

func writeEvent(b *strings.Builder, prefix string, e *loop.Event) {
	if e == nil {
		return
	}
	about := ""
	if e.About != nil {
		about = " (" + kinds.KeyOf(e.About).String() + ")"
	}
	fmt.Fprintf(b, "%s%s %s: %s%s\n", prefix, e.Type, e.Reason, e.Message, about)
}
