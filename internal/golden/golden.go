// Package golden holds cases to what their files say comes of them.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Cases runs every case of a folder, a file *.txtar each: what got returns is what its section "want" has. No case at all
// is a failure. With -update the section is written instead.
func Cases(t *testing.T, dir string, got func(t *testing.T, c *txtar.Archive) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := Section(c, "want")
			got := got(t, c)
			if *update {
				setSection(c, "want", got)
				if err := os.WriteFile(file, txtar.Format(c), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("-want +got, run with -update to accept:\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// Section is the text of a file of a case, empty if there is none.
func Section(c *txtar.Archive, name string) string {
	if i := index(c, name); i >= 0 {
		return string(c.Files[i].Data)
	}
	return ""
}

func setSection(c *txtar.Archive, name, text string) {
	i := index(c, name)
	if i < 0 {
		i = len(c.Files)
		c.Files = append(c.Files, txtar.File{Name: name})
	}
	c.Files[i].Data = []byte(text)
}

func index(c *txtar.Archive, name string) int {
	return slices.IndexFunc(c.Files, func(f txtar.File) bool { return f.Name == name })
}
