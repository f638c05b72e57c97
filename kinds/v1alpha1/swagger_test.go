package v1alpha1

import (
	"bytes"
	"fmt"
	"go/format"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"lockstep/internal/golden"
)

// TestSwagger holds what kubectl explain says of this package's types to their comments.
func TestSwagger(t *testing.T) {
	types, err := runtime.ParseDocumentationFrom("source.go")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString("package v1alpha1\n\n// Made from the comments of source.go: go test ./kinds/v1alpha1 -run TestSwagger -update.\n")
	for _, fields := range types {
		name := fields[0].Name // the first is the type itself
		fmt.Fprintf(&out, "\n// SwaggerDoc has the comments of %s, and of its fields by their names in JSON.\n", name)
		fmt.Fprintf(&out, "func (%s) SwaggerDoc() map[string]string {\nreturn map[string]string{\n", name)
		for i, f := range fields {
			switch {
			case i == 0:
				f.Name = ""
			case f.Doc == "":
				t.Errorf("%s.%s has no comment", name, f.Name)
			}
			fmt.Fprintf(&out, "%q: %s,\n", f.Name, literal(strings.ReplaceAll(f.Doc, `\"`, `"`)))
		}
		out.WriteString("}\n}\n")
	}
	text, err := format.Source(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	golden.File(t, "swagger.go", string(text))
}

// literal writes a text as Go does, in lines of some 100 characters.
func literal(text string) string {
	var out strings.Builder
	line := ""
	for _, word := range strings.SplitAfter(text, " ") {
		if len(line)+len(word) > 100 {
			fmt.Fprintf(&out, "%q +\n", line)
			line = ""
		}
		line += word
	}
	fmt.Fprintf(&out, "%q", line)
	return out.String()
}
