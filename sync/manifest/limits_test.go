package manifest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/short"
)

func TestLimits(t *testing.T) {
	object := func(name, data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {a: " + data + "}\n"
	}
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	cases := map[string]struct{ name, data, want string }{
		"a large file": {"a.yaml", strings.Repeat("#", MaxFile+1),
			"a.yaml: the file has 10485761 bytes, more than the limit of 10 MiB"},
		"a large object":    {"a.yaml", object("a", strings.Repeat("x", MaxObject)), "a.yaml:1:1: ConfigMap default/a: the object has"},
		"a NUL byte":        {"a.yaml", "a: b\nc: \x00", "a.yaml:2:4: the file has a NUL byte; manifests are text"},
		"Latin-1":           {"a.yaml", "a: b\nc: caf\xe9", "a.yaml:2:7: the file is not UTF-8"},
		"UTF-16":            {"a.yaml", "\xff\xfea\x00", "a.yaml:1:1: the file is UTF-16; save it as UTF-8"},
		"UTF-16, other":     {"a.json", "\xfe\xff\x00{", "a.json:1:1: the file is UTF-16; save it as UTF-8"},
		"UTF-32":            {"a.yaml", "\xff\xfe\x00\x00a\x00\x00\x00", "a.yaml:1:1: the file is UTF-32; save it as UTF-8"},
		"an alias bomb":     {"a.yaml", bomb, "aliases of this document expand to more than 100000 values"},
		"deep flow YAML":    {"a.yaml", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "nested deeper than 100 levels"},
		"deeper flow YAML":  {"a.yaml", strings.Repeat("[", 100000), "cannot parse YAML: "},
		"deep JSON":         {"a.json", strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "nested deeper than 100 levels"},
		"many errors":       {"a.yaml", strings.Repeat("kind: x\n---\n", 1000), "900 more errors in this file"},
		"a large JSON file": {"a.json", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, errs := Read(t.Context(), []File{fileOf(c.name, []byte(c.data))}, Options{})
			if c.want == "" {
				if len(errs) > 0 {
					t.Errorf("got %v, want no error", errs)
				}
				return
			}
			if !strings.Contains(errs.Error(), c.want) {
				t.Errorf("got %.300s, want %q", errs, c.want)
			}
			if len(errs) > MaxErrors+1 {
				t.Errorf("%d errors", len(errs))
			}
		})
	}
}

// TestMuchTogether: reading ends where a source is too much, not after all of it.
func TestMuchTogether(t *testing.T) {
	data := []byte(strings.Repeat("# nothing\n", 100_000))
	var files []File
	var reads atomic.Int64
	for i := range 1000 {
		files = append(files, File{Path: fmt.Sprintf("%03d.yaml", i), Hash: fmt.Sprint(i), Data: func() ([]byte, error) {
			reads.Add(1)
			return data, nil
		}})
	}
	_, errs := Read(t.Context(), files, Options{})
	if errs.Error() != "the source's manifests have more than 128 MiB together" || reads.Load() > 160 {
		t.Errorf("got %v after %d files", errs, reads.Load())
	}
}

func TestTooManyObjects(t *testing.T) {
	short.Leave(t, "as many objects as may be")
	var b strings.Builder
	for i := range MaxObjects + 1 {
		fmt.Fprintf(&b, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a%d}}\n---\n", i)
	}
	_, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(b.String()))}, Options{})
	if len(errs) != 1 || errs[0].Message != "the source has more than 20000 objects" || errs[0].Line != 40001 {
		t.Errorf("got %v", errs)
	}
}

// TestManyPorts: what services and slices add to every node's rules is bounded, one object's and a source's.
func TestManyPorts(t *testing.T) {
	service := func(name string, ports, external int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n", name)
		if external > 0 {
			b.WriteString("  externalIPs:\n")
		}
		for i := range external {
			fmt.Fprintf(&b, "  - 198.51.%d.%d\n", i/250, i%250)
		}
		b.WriteString("  ports:\n")
		for i := range ports {
			fmt.Fprintf(&b, "  - {name: p%d, port: %d}\n", i, i+1)
		}
		return b.String()
	}
	slice := func(name string, ports, endpoints int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
			"metadata: {name: %s, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints:\n", name)
		for i := range endpoints {
			fmt.Fprintf(&b, "- addresses: [198.51.%d.%d]\n", i/250, 1+i%250)
		}
		b.WriteString("ports:\n")
		for i := range ports {
			fmt.Fprintf(&b, "- {name: p%d, port: %d}\n", i, i+1)
		}
		return b.String()
	}
	subsets := func(n, addresses int) string {
		var b strings.Builder
		b.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\nsubsets:\n")
		for i := range n {
			fmt.Fprintf(&b, "- ports: [{port: %d}]\n  addresses:\n", i+1)
			for j := range addresses {
				fmt.Fprintf(&b, "  - ip: 198.51.100.%d\n", j)
			}
		}
		return b.String()
	}
	for text, want := range map[string]string{
		service("a", MaxPorts, 0): "",
		service("a", MaxPorts+1, 0): "a.yaml:5:3: Service default/a: spec.ports: 1001 ports for 1 addresses are more than the limit of " +
			"1000 together, which every node would have rules for",
		service("a", 12_000, 0): "spec.ports: 12000 ports for 1 addresses are more than",
		service("a", 100, 10):   "spec.ports: 100 ports for 11 addresses are more than",
		slice("a", 10, 1000):    "",
		slice("a", 101, 100):    "ports: 101 ports for 100 addresses are more than the limit of 10000 together",
		subsets(100, 100):       "",
		subsets(101, 100):       "subsets: 1 ports for 10100 addresses are more than the limit of 10000 together",
	} {
		_, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
		if want == "" && len(errs) > 0 || want != "" && !strings.Contains(errs.Error(), want) {
			t.Errorf("%s...: got %v, want %q", text[:70], errs, want)
		}
	}
	var files []File
	for i := range 2 + MaxReached/MaxSlicePorts {
		files = append(files, fileOf(fmt.Sprintf("%d.yaml", i), []byte(slice(fmt.Sprint("a", i), 10, 1000))))
	}
	if _, errs := Read(t.Context(), files, Options{}); len(errs) != 1 ||
		errs[0].Message != "the source's services and EndpointSlices have more than 200000 ports of addresses together" {
		t.Errorf("got %.300v", errs)
	}
}

// TestManyReplicas: what one object asks for is bounded, of whichever kind that is scaled.
func TestManyReplicas(t *testing.T) {
	for kind, selector := range map[string]string{
		"apps/v1, kind: Deployment": "{matchLabels: {app: a}}", "apps/v1, kind: ReplicaSet": "{matchLabels: {app: a}}",
		"apps/v1, kind: StatefulSet": "{matchLabels: {app: a}}", "v1, kind: ReplicationController": "{app: a}",
	} {
		for n, want := range map[int]string{MaxReplicas: "", MaxReplicas + 1: "spec.replicas: 150001 pods are more than the limit of"} {
			text := fmt.Sprintf("{apiVersion: %s, metadata: {name: a}, spec: {replicas: %d, selector: %s, template: "+
				"{metadata: {labels: {app: a}}, spec: {containers: [{name: main, image: a}]}}}}", kind, n, selector)
			_, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
			if want == "" && len(errs) > 0 || want != "" && !strings.Contains(errs.Error(), want) {
				t.Errorf("%s: got %v, want %q", kind, errs, want)
			}
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	f := File{Path: "a.yaml", Data: func() ([]byte, error) { return nil, errors.New("gone") }}
	_, errs := Read(t.Context(), []File{f}, Options{})
	if errs.Error() != "a.yaml: cannot read the file: gone" {
		t.Errorf("got %v", errs)
	}
}

// A value of a Secret shows in no error, whatever is wrong around it.
func TestSecretCanary(t *testing.T) {
	const canary = "c4n4ry"
	values := []string{
		canary, "*" + canary, "!" + canary + " x", "&" + canary + " x", `"` + canary, "'" + canary, "[" + canary, "{a: " + canary + "}",
		"|\n    " + canary, "\t" + canary, "@" + canary, "%" + canary, canary + ": " + canary, "!!binary " + canary, "!!int " + canary,
		"!!float " + canary, "!!bool " + canary, "\"\\" + canary + "\"", "? " + canary, "- " + canary,
		canary + "\n " + canary, "<<: " + canary,
	}
	places := []string{
		"data:\n  password: %s\n", "stringData:\n  password: %s\n", "data: %s\n", "stringData: %s\n",
		"type: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: %s\n",
		"type: kubernetes.io/dockercfg\nstringData:\n  .dockercfg: %s\n", "type: kubernetes.io/ssh-auth\nstringData:\n  ssh: %s\n",
		"stringData:\n  bad key: %s\n", "stringdata:\n  password: %s\n", "immutable: %s\n", "extra: {a: %s}\n",
		"stringData:\n  a: x\n  a: %s\n",
		"immutable: true\nstringData: {a: %s}\nkind: Secret\n",
	}
	for _, place := range places {
		for _, value := range values {
			text := "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n" + fmt.Sprintf(place, value)
			for _, name := range []string{"a.yaml", "a.json"} {
				_, errs := Read(t.Context(), []File{fileOf(name, []byte(text))}, Options{})
				if strings.Contains(errs.Error(), canary) {
					t.Errorf("the value shows in:\n%s\nof:\n%s", errs, text)
				}
			}
		}
	}
	for _, value := range []string{`"` + canary + `"`, `[ "` + canary + `" ]`, canary, `"\` + canary + `"`} {
		text := `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": ` + value + `}}`
		if _, errs := Read(t.Context(), []File{fileOf("a.json", []byte(text))}, Options{}); len(errs) == 0 ||
			strings.Contains(errs.Error(), canary) {
			t.Errorf("got %v of %s", errs, text)
		}
	}
}

// TestMuchMemory: objects that take forty times their text are counted by what they take.
func TestMuchMemory(t *testing.T) {
	short.Leave(t, "half a gigabyte")
	var files []File
	var reads atomic.Int64
	const made = MaxSource/MaxObject - 1
	for i := range made {
		files = append(files, File{Path: fmt.Sprintf("%03d.yaml", i), Hash: fmt.Sprint(i), Data: func() ([]byte, error) {
			reads.Add(1)
			var b strings.Builder
			fmt.Fprintf(&b, "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a%d}\n", i)
			b.WriteString("spec: {ingressClassName: other, defaultBackend: {service: {name: a, port: {number: 1}}}, tls: [\n")
			for b.Len() < 8*MaxObject/10 {
				b.WriteString("{},\n")
			}
			b.WriteString("]}\n")
			return []byte(b.String()), nil
		}})
	}
	r := NewReader()
	_, errs := r.Read(t.Context(), files, Options{})
	if len(errs) != 1 || errs[0].Error() != "the source's objects take more than 512 MiB of memory together" {
		t.Errorf("got %.300s", errs)
	}
	if n := reads.Load(); n > made/2 {
		t.Errorf("%d files were read", n)
	}
	if set, errs := r.Read(t.Context(), files[:2], Options{}); len(errs) > 0 || len(set.Objects) != 2 {
		t.Errorf("two of them: %.300s", errs)
	}
}

// TestCrowdedPods: what a pod is and asks for is bounded, so that its state can be stored and the scheduler has time for others.
func TestCrowdedPods(t *testing.T) {
	list := func(n int, item string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, strings.ReplaceAll(item, "#", "%[1]d")+",", i)
		}
		return "[" + b.String() + "]"
	}
	const term = "{topologyKey: k#, labelSelector: {matchLabels: {a: b}}}"
	const spread = "{maxSkew: 1, topologyKey: k#, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}"
	near := func(terms string) string {
		return "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: " + terms + "}}"
	}
	onNodes := func(n int) string {
		return "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: " +
			"[{key: a, operator: In, values: " + list(n, `"#"`) + "}]}]}}}"
	}
	env := func(n int) string {
		return "containers: [{name: a, image: b, env: [{name: A, value: " + strings.Repeat("x", n) + "}]}]"
	}
	const one = "containers: [{name: a, image: b}], "
	nodeWords := func(n int) string { return one + onNodes(n) }
	spreading := func(n int) string { return one + "topologySpreadConstraints: " + list(n, spread) }
	tolerating := func(n int) string { return one + "tolerations: " + list(n, "{key: k#, operator: Exists}") }
	parts := func(n int) string {
		mounts := list(n, "{name: v, subPath: a#, mountPath: /a#}")
		return "volumes: [{name: v}], containers: [{name: a, image: b, volumeMounts: " + mounts + "}]"
	}
	many := func(n int) string {
		return one + near("[{topologyKey: k, namespaces: "+list(n, "n#")+", labelSelector: {}}]")
	}
	for name, c := range map[string]struct{ spec, at, want string }{
		"much":        {env(500_000), "", "bytes of a pod, as it is stored, are more than the limit of 491520"},
		"containers":  {"containers: " + list(251, "{name: c#, image: b}"), ".containers", "251 containers are more than the limit of 250"},
		"near":        {one + near(list(101, term)), ".affinity", "101 terms of pod affinity and anti-affinity are more than"},
		"near many":   {many(2001), ".affinity", "2001 namespaces, labels and values of pod affinity and anti-affinity are more than"},
		"volumes":     {one + "volumes: " + list(251, "{name: v#}"), ".volumes", "251 volumes are more than the limit of 250"},
		"parts":       {parts(501), ".containers", "501 mounts with a subPath are more than the limit of 500"},
		"spread":      {spreading(21), ".topologySpreadConstraints", "21 constraints are more than the limit of 20"},
		"nodes":       {nodeWords(5000), ".affinity.nodeAffinity", "5001 requirements and values of node affinity are more than"},
		"tolerations": {tolerating(1001), ".tolerations", "tolerations are more than the limit of 1000"},

		"not much":       {env(400_000), "", ""},
		"not in parts":   {parts(500), "", ""},
		"not near many":  {many(2000), "", ""},
		"not too near":   {one + near(list(100, term)), "", ""},
		"not on many":    {nodeWords(4999), "", ""},
		"not too spread": {spreading(20), "", ""},
		"tolerant":       {tolerating(998), "", ""}, // with the two that all pods get
		"250 containers": {"containers: " + list(250, "{name: c#, image: b}"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, of := range []struct{ text, at string }{
				{"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {" + c.spec + "}\n", "spec"},
				{"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, " +
					"template: {metadata: {labels: {a: b}}, spec: {" + c.spec + "}}}\n", "spec.template.spec"},
			} {
				_, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(of.text))}, Options{})
				switch got := errs.Error(); {
				case c.want == "" && got == "":
				case c.want == "" || !strings.Contains(got, c.want) || !strings.Contains(got, of.at+c.at+": "):
					t.Errorf("got %.300s, want %s: %s", got, of.at+c.at, c.want)
				}
			}
		})
	}
}

// TestMemoryOf compares what is reckoned with what the types say.
func TestMemoryOf(t *testing.T) {
	type inner struct {
		Text string // 16 bytes
		Long [112]byte
	}
	list := make([]inner, 3, 4)
	list[1].Text = "12345"
	for what, c := range map[string]struct {
		value any
		want  int64
	}{
		"nothing": {(*inner)(nil), 0}, "a number": {7, 0}, "a text": {"1234", 4}, "a pointer": {&inner{Text: "12"}, 130},
		"a list": {list, 4*128 + 5}, "bytes": {make([]byte, 3, 10), 10}, "a map": {map[string]inner{"12": {Text: "3"}}, 16 + 128 + 16 + 3},
		"an interface": {[]any{&list[1]}, 16 + 8 + 128 + 5}, "a time": {time.Now(), 0},
	} {
		if got := memoryOf(reflect.ValueOf(c.value)); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}

// TestManyCompletions: what a Job asks for is bounded, at once and in all.
func TestManyCompletions(t *testing.T) {
	const job = "{%s: %d, template: {spec: {restartPolicy: Never, containers: [{name: main, image: a}]}}}"
	for path, text := range map[string]string{
		"spec.": "{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: " + job + "}",
		"spec.jobTemplate.spec.": "{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {schedule: '@daily', " +
			"jobTemplate: {spec: " + job + "}}}",
	} {
		for _, field := range []string{"parallelism", "completions"} {
			refused := path + field + ": 150001 pods are more than the limit of"
			for n, want := range map[int]string{MaxReplicas: "", MaxReplicas + 1: refused} {
				_, errs := Read(t.Context(), []File{fileOf("a.yaml", fmt.Appendf(nil, text, field, n))}, Options{})
				if want == "" && len(errs) > 0 || want != "" && !strings.Contains(errs.Error(), want) {
					t.Errorf("%s%s %d: got %v, want %q", path, field, n, errs, want)
				}
			}
		}
	}
}

// TestNever: a schedule for a day that there is not is an error, at its place.
func TestNever(t *testing.T) {
	for schedule, want := range map[string]string{
		"0 0 29 2 *": "", "@hourly": "", "59 23 31 2 *": `spec.schedule: "59 23 31 2 *" never comes`, "TZ=0": "cannot use TZ",
	} {
		text := "{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {schedule: '" + schedule + "', jobTemplate: " +
			"{spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: a}]}}}}}}"
		_, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
		if want == "" && len(errs) > 0 || want != "" && !strings.Contains(errs.Error(), want) {
			t.Errorf("%s: got %v, want %q", schedule, errs, want)
		}
	}
}
