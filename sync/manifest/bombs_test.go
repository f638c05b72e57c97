package manifest

import (
	"context"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/internal/short"
)

// bombs are files that cost far more than their size where a decoder is careless.
func bombs() map[string]string {
	pod := func(container string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: a, image: a, " + container + "}\n"
	}
	configMap := func(data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: " + data + "\n"
	}
	fill := func(n int, text string) string { return strings.Repeat(text, n/len(text)) }
	const whole, object = MaxFile - 1<<10, MaxObject - 1<<10
	return map[string]string{
		"quantity: exponent": pod("resources: {limits: {cpu: 1e999999999}}"),
		"quantity: quoted":   pod("resources: {limits: {cpu: \"1e999999999\"}}"),
		"quantity: negative": pod("resources: {limits: {cpu: 1e-999999999}}"),
		"quantity: digits":   pod("resources: {limits: {cpu: \"" + fill(object, "9") + "\"}}"),
		"quantity: fraction": pod("resources: {limits: {cpu: \"0." + fill(object, "9") + "\"}}"),
		"quantity: sizeLimit": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}], " +
			"volumes: [{name: a, emptyDir: {sizeLimit: 1e999999999}}]}\n",
		"quantity: divisor": pod("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1e999999999}}}]"),
		"integer: digits": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: " +
			fill(whole, "9") + "}\n",
		"integer: exponent": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1e999999999}\n",
		"integer: hexadecimal": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 0x" +
			fill(whole, "f") + "}\n",
		"integer: sexagesimal": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1" +
			fill(whole, ":59") + "}\n",
		"float: digits": configMap("{a: 0." + fill(whole, "9") + "}"),
		"port: digits":  pod("ports: [{containerPort: " + fill(object, "9") + "}]"),
		"port: name":    pod("livenessProbe: {httpGet: {port: \"" + fill(object, "9") + "\"}}"),
		"percentage: digits": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n" +
			"spec: {strategy: {rollingUpdate: {maxSurge: \"" + fill(object, "9") + "%\"}}}\n",
		"key: long":                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n? " + fill(whole, "x") + "\n: a\n",
		"key: long, of data":       "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  ? " + fill(object, "x") + "\n  : a\n",
		"key: many unknown":        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n" + many(whole/20, "  container%d: a\n"),
		"key: many duplicate":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n" + fill(object, "  a: b\n"),
		"kind: long":               "apiVersion: v1\nkind: " + fill(whole, "x") + "\nmetadata: {name: a}\n",
		"name: long":               "apiVersion: v1\nkind: Pod\nmetadata: {name: " + fill(object, "x") + "}\n",
		"value: long, not allowed": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: " + fill(object, "x") + "}\n",
		"binary: long": "apiVersion: v1\nkind: Pod\nmetadata: {name: !!binary " +
			base64.StdEncoding.EncodeToString(make([]byte, object/2)) + "}\n",
		"errors: many in an object": pod("env: [" + fill(object/2, "{name: 1=},") + "]"),
		"errors: many of values":    pod("env: [" + fill(object/2, "{name: 1},") + "]"),
		"errors: unlisted": pod("volumeDevices: ["+fill(object, "{name: a},")+"]") +
			"  ephemeralContainers: [" + fill(object/2, "{name: a},") + "]\n",
		"errors: unlisted, many": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n" +
			fill(object/2, "  - {name: a, image: a, stdin: true}\n"),
		"duplicate names": pod("env: [" + fill(object/2, "{name: a},") + "]"),
		"ports: many": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [" +
			many(object/40, "{port: %d, name: a%[1]d},") + "]}\n",
		"documents: empty":         fill(whole, "---\n"),
		"documents: broken":        fill(whole, "---\na: ["+strings.Repeat("a, ", 600)+"\n"),
		"documents: one long line": "a: [" + fill(whole, "a, "),
		"documents: not of UTF-8":  fill(whole, "a: b\n") + "\xff",
		"documents: anchors":       "a: [" + many(whole/14, "&a%d a,") + "]\n",
		"documents: aliases":       "a: &a " + fill(1000, "a") + "\nb: [" + fill(whole, "*a,") + "]\n",
		"documents: aliases of text": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nb: &a " + fill(1<<20, "a") + "\nc: [" +
			fill(400_000, "*a,") + "]\n",
		"documents: merges":         "a: &a {b: c}\n" + fill(whole/4, "d: {<<: *a}\n"),
		"documents: merges of many": "a: &a {" + many(10_000, "a%d: b,") + "}\nb:\n" + fill(100_000, "- {<<: *a}\n"),
		"documents: merges nested": "a0: &a0 {x: y}\n" + manyOf(90, func(i int) string {
			return fmt.Sprintf("a%d: &a%d {<<: [*a%d, *a%d]}\n", i+1, i+1, i, i)
		}),
		"nesting: block":         nested(4000),
		"nesting: keys":          fill(whole, "? "),
		"nesting: lists":         fill(whole, "- "),
		"nesting: flow mappings": fill(whole, "{a: "),
		"comments":               fill(whole, "#\n"),
		"comments: in a list":    fill(whole/4, "- #\n"),
		"comments: at the end":   "a: b\n" + fill(whole, "  # c\n"),
		"blank lines":            fill(whole, "\n"),
		"folded":                 configMap("\n  a: >\n" + fill(whole, "\n   x\n")),
		"escapes":                configMap("{a: \"" + fill(whole, "\\u0041") + "\"}"),
		"directives":             fill(whole, "%A\n"),
		"tags":                   "a: [" + fill(whole/4, "!a x,") + "]",
		"carriage returns":       fill(whole, "a: b\r"),
		"JSON in a row":          fill(whole, "{}\n"),
		"JSON, broken":           fill(whole, "{]\n"),
		"JSON, deep":             fill(whole, "["),
		"JSON, deep objects":     fill(whole, `{"a":`),
		"JSON, duplicates":       `{"a":{` + fill(whole, `"a":1,`) + `"a":1}}`,
		"JSON, number":           `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"priority":` + fill(whole, "9") + `}}`,
		"JSON, many Lists":       fill(whole, `{"kind":"List","items":[`),
	}
}

func many(n int, format string) string {
	return manyOf(n, func(i int) string { return fmt.Sprintf(format, i) })
}

func manyOf(n int, text func(int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(text(i))
	}
	return b.String()
}

// nested is a block mapping in each line of which the indentation grows.
func nested(levels int) string {
	return manyOf(levels, func(i int) string { return strings.Repeat(" ", i) + "a:\n" })
}

// No file within the limits takes long, or more memory than a small multiple of the largest file.
func TestBombs(t *testing.T) {
	short.Leave(t, "files as large as may be")
	const (
		longest = 60 * time.Second // on a machine that is busy with other things
		most    = 1 << 30          // allocated altogether; the most that is in use at once is below
	)
	for name, text := range bombs() {
		for _, file := range []string{"a.yaml", "a.json"} {
			if strings.HasPrefix(name, "JSON") != (file == "a.json") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				began := time.Now()
				_, errs := Read(t.Context(), []File{fileOf(file, []byte(text))}, Options{})
				took := time.Since(began)
				runtime.ReadMemStats(&after)
				allocated := after.TotalAlloc - before.TotalAlloc
				t.Logf("%d bytes took %v and %d MiB, %d errors of %d bytes: %.200s", len(text), took.Round(time.Millisecond),
					allocated>>20, len(errs), len(errs.Error()), errs.Error())
				if took > longest || allocated > most {
					t.Errorf("%d bytes took %v and %d MiB", len(text), took, allocated>>20)
				}
				if n := len(errs.Error()); n > (MaxErrors+1)*8<<10 {
					t.Errorf("the errors have %d bytes", n)
				}
			})
		}
	}
}

// Reading ends soon when nobody waits for it any more, whatever is being read.
func TestReadEndsWithItsContext(t *testing.T) {
	var files []File
	for i := range 200 {
		files = append(files, fileOf(fmt.Sprintf("%d.yaml", i),
			[]byte(strings.Repeat("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", 20_000))))
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		time.Sleep(100 * time.Millisecond)
		cancel()
	}()
	began := time.Now()
	set, errs := Read(ctx, files, Options{})
	if set != nil || len(errs) == 0 {
		t.Errorf("got %v", errs)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
}
