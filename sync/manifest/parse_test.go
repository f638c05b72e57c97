package manifest

import (
	"strings"
	"testing"
)

// Files that were put together from several have byte order marks inside.
func TestByteOrderMarks(t *testing.T) {
	const mark = "\ufeff"
	document := func(name string) string { return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n" }
	for _, text := range []string{
		mark + document("a") + "---\n" + mark + document("b"),
		document("a") + mark + "---\n" + document("b"),
		document("a") + "...\n" + mark + document("b"),
		mark + "# one\n" + document("a") + "--- # two\n\n# still\n" + mark + document("b"),
		mark + `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}` + "\n---\n" + mark + document("b"),
	} {
		set, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
		if errs != nil || len(set.Objects) != 2 ||
			set.Objects[1].Line != strings.Count(text[:strings.LastIndex(text, "apiVersion")], "\n")+1 {
			t.Errorf("%q: %v, %v", text, set, errs)
		}
	}
	inside := document("a") + "data:\n  a: |\n    x\n    " + mark + "y\n"
	set, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(inside))}, Options{})
	if errs != nil || !strings.Contains(string(set.Objects[0].Stated), mark+"y") {
		t.Errorf("a mark inside a value: %v", errs)
	}
}

// What an error repeats of a file can neither move a terminal's cursor nor fill its screen.
func TestErrorsArePlainAndBounded(t *testing.T) {
	long := strings.Repeat("\\u202e\\e[2J", 20_000)
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\e]0;x\\a\", \"b\\r\\n\": 1}\n" +
		"spec: {restartPolicy: \"" + long + "\", \"" + long[:693] + "\": 1}\n"
	_, errs := Read(t.Context(), []File{fileOf("a\x1b[31m.yaml", []byte(text))}, Options{})
	if len(errs) < 4 {
		t.Fatalf("%v", errs)
	}
	for _, e := range errs {
		line := e.Error()
		if strings.ContainsAny(line, "\x1b\x07\r\n\u202e") || len(line) > 4<<10 {
			t.Errorf("%d bytes: %.300q", len(line), line)
		}
	}
}
