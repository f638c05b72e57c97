package manifest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

func TestErrorAtFindsAnObjectAmongMany(t *testing.T) {
	text := "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}},\n" +
		" {apiVersion: v1, kind: Namespace, metadata: {name: b}}]}\n---\n---\nkind: Service\napiVersion: v1\nmetadata: {name: c}\n" +
		"spec:\n  ports:\n  - port: 80\n"
	set, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
	if errs != nil {
		t.Fatal(errs)
	}
	service := kinds.For[*corev1.Service]().Key("default", "c")
	for field, want := range map[string]string{
		"spec.ports[0].port": "a.yaml:10:5: Service default/c: spec.ports[0].port: taken",
		"spec.clusterIP":     "a.yaml:8:1: Service default/c: spec.clusterIP: taken",
		"":                   "a.yaml:5:1: Service default/c: taken",
	} {
		if e := set.ErrorAt(service, field, "taken"); e.Error() != want {
			t.Errorf("got %v, want %s", e, want)
		}
	}
	if e := set.ErrorAt(kinds.For[*corev1.Namespace]().Key("", "b"), "metadata.name", "taken"); e.Line != 2 || e.Column != 47 {
		t.Errorf("got %v", e)
	}
	if e := set.ErrorAt(kinds.For[*corev1.Namespace]().Key("", "z"), "", "lost"); e.Error() != "Namespace z: lost" {
		t.Errorf("got %q", e)
	}
}

// A revision in which one file has changed has only that one read, and so has going back.
func TestReaderReadsOnlyWhatChanged(t *testing.T) {
	var reads atomic.Int32
	file := func(i int, text string) File {
		f := fileOf(fmt.Sprintf("%d.yaml", i), []byte(text))
		data := f.Data
		f.Data = func() ([]byte, error) { reads.Add(1); return data() }
		return f
	}
	account := func(name string) string {
		return "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + name + "}\n"
	}
	first := []File{file(0, account("a")), file(1, account("b")), file(2, account("c"))}
	second := []File{first[0], file(1, account("d")), first[2]}
	broken := []File{first[0], file(1, "kind: 5"), first[2]}

	r := NewReader()
	for i, step := range []struct {
		files   []File
		reads   int32
		objects string
	}{
		{first, 3, "a b c"}, {first, 0, "a b c"}, {second, 1, "a c d"}, {first, 0, "a b c"}, {broken, 1, ""}, {first, 0, "a b c"},
		{nil, 0, ""}, {first, 0, "a b c"}, {nil, 0, ""}, {nil, 0, ""}, {first, 3, "a b c"},
	} {
		reads.Store(0)
		files := slices.Clone(step.files)
		slices.Reverse(files)
		set, errs := r.Read(t.Context(), files, Options{})
		var names []string
		if set != nil {
			for _, o := range set.Objects {
				names = append(names, o.Key.Name)
			}
		}
		if got := strings.Join(names, " "); got != step.objects || reads.Load() != step.reads {
			t.Errorf("step %d: %d files read and %q, want %d and %q; errors %v", i, reads.Load(), got, step.reads, step.objects, errs)
		}
	}
}

// FuzzRead looks for panics, endless loops and errors without a place in any bytes.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"a.yaml", "a.json"} {
		f.Add(name, []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {a: *b}\n---\n&a [*a]: b\n"))
		f.Add(name, []byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},`+
			`"spec":{"containers":[{"name":"a"}]}}]}`))
		f.Add(name, []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\nspec:\n  replicas: 1e3\n"+
			"  template: &t\n    <<: [*t, {a: b}]\n"))
		f.Add(name, []byte("{\"a\": {\"b\": x}\n}\n{\"kind\": \"Pod\",,}\n{}\n{\"a\""))
		f.Add(name, []byte("a: b\n  ü: \"c\n---\na:\n\t- b\n---\na: {b: [c\n"))
		f.Add(name, []byte("? !!binary eA==\n: 0x1_0\n...\n%YAML 1.1\n--- |\n a\n"))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		set, errs := Read(t.Context(), []File{fileOf(name, data)}, Options{})
		if (set == nil) == (len(errs) == 0) {
			t.Fatalf("set %v and errors %v", set, errs)
		}
		for _, e := range errs {
			if e.File != name || e.Message == "" || e.Line < 0 || (e.Line == 0) != (e.Column == 0) ||
				strings.Contains(e.Message, "gave up on the object") {
				t.Fatalf("error %#v", e)
			}
		}
		if set == nil {
			return
		}
		for _, o := range set.Objects {
			if o.Line < 1 || o.Column < 1 || kinds.KeyOf(o.Object) != o.Key || len(o.Stated) == 0 {
				t.Fatalf("object %v at %d:%d states %s", o.Key, o.Line, o.Column, o.Stated)
			}
		}
	})
}

// BenchmarkRead reads 10,000 files of which one has changed: what a one-line push costs.
func BenchmarkRead(b *testing.B) {
	const n = 10_000
	text := func(i, replicas int) []byte {
		return fmt.Appendf(nil, `apiVersion: apps/v1
kind: Deployment
metadata: {name: cart-%[1]d, namespace: shop, labels: {app: cart}}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: cart-%[1]d}}
  template:
    metadata: {labels: {app: cart-%[1]d}}
    spec:
      containers:
      - name: main
        image: registry.example/cart:1
        ports: [{containerPort: 8080, name: http}]
        resources: {requests: {cpu: 100m, memory: 64Mi}}
        readinessProbe: {httpGet: {path: /ready, port: http}}
`, i, replicas)
	}
	files := make([]File, n)
	for i := range files {
		files[i] = fileOf(fmt.Sprintf("apps/cart-%05d.yaml", i), text(i, 1))
	}
	r := NewReader()
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if _, errs := NewReader().Read(b.Context(), files[:1000], Options{}); errs != nil {
				b.Fatal(errs)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/file")
	})
	if _, errs := r.Read(b.Context(), files, Options{}); errs != nil {
		b.Fatal(errs)
	}
	b.Run("one changed", func(b *testing.B) {
		replicas := 1
		for b.Loop() {
			replicas++
			files[n/2] = fileOf(files[n/2].Path, text(n/2, replicas))
			if _, errs := r.Read(b.Context(), files, Options{}); errs != nil {
				b.Fatal(errs)
			}
		}
	})
}
