package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
)

func fileOf(name string, data []byte) File {
	sum := sha256.Sum256(data)
	return File{Path: name, Hash: hex.EncodeToString(sum[:]), Data: func() ([]byte, error) { return data, nil }}
}

// TestCases runs every archive of testdata/cases: its comment says what it shows, `ignore:` lines in it list kinds to
// ignore, the file want is the outcome, all other files are the source.
func TestCases(t *testing.T) {
	golden.Cases(t, "testdata/cases", func(t *testing.T, c *txtar.Archive) string {
		var files []File
		for _, f := range c.Files {
			if f.Name != "want" {
				files = append(files, fileOf(f.Name, f.Data))
			}
		}
		var opts Options
		for line := range strings.SplitSeq(string(c.Comment), "\n") {
			if kind, found := strings.CutPrefix(line, "ignore: "); found {
				opts.IgnoreKinds = append(opts.IgnoreKinds, kind)
			}
		}
		set, errs := Read(t.Context(), files, opts)
		return outcome(t, set, errs)
	})
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
