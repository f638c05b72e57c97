package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden parts of testdata")

func fileOf(name string, data []byte) File {
	sum := sha256.Sum256(data)
	return File{Path: name, Hash: hex.EncodeToString(sum[:]), Data: func() ([]byte, error) { return data, nil }}
}

// TestCases runs every archive of testdata/cases: its comment says what it shows, `ignore:` lines in it list kinds to
// ignore, the file want is the outcome, all other files are the source.
func TestCases(t *testing.T) {
	cases, err := filepath.Glob("testdata/cases/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var files []File
			want := -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = i
					continue
				}
				files = append(files, fileOf(f.Name, f.Data))
			}
			var opts Options
			for line := range strings.SplitSeq(string(archive.Comment), "\n") {
				if kind, found := strings.CutPrefix(line, "ignore: "); found {
					opts.IgnoreKinds = append(opts.IgnoreKinds, kind)
				}
			}
			set, errs := Read(t.Context(), files, opts)
			got := outcome(t, set, errs)
			if *update {
				if want < 0 {
					archive.Files = append(archive.Files, txtar.File{Name: "want"})
					want = len(archive.Files) - 1
				}
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want < 0 {
				t.Fatalf("no want; got:\n%s", got)
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// outcome prints errors, or what each object states.
func outcome(t *testing.T, set *Set, errs Errors) string {
	if len(errs) > 0 {
		return errs.Error() + "\n"
	}
	var b strings.Builder
	for _, o := range set.Objects {
		stated, err := yaml.JSONToYAML(o.Stated)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# %v at %s:%d:%d\n%s", o.Key, o.File, o.Line, o.Column, stated)
		// What is stated decodes into the type again: that is what the plan compares.
		back := o.Object.DeepCopyObject()
		if err := json.Unmarshal(o.Stated, back); err != nil {
			t.Errorf("%v: stated does not decode: %v", o.Key, err)
		}
	}
	return b.String()
}
