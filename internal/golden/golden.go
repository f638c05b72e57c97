// Package golden holds what comes of tests, of cases above all, to what files say.
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
	Sections(t, dir, func(t *testing.T, c *txtar.Archive) []txtar.File {
		return []txtar.File{{Name: "want", Data: []byte(got(t, c))}}
	})
}

// Sections is as Cases, for cases of which several sections come: got returns each of them. New ones are written behind
// those that the file has.
func Sections(t *testing.T, dir string, got func(t *testing.T, c *txtar.Archive) []txtar.File) {
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
			for _, s := range got(t, c) {
				if want := Section(c, s.Name); *update {
					setSection(c, s)
				} else if string(s.Data) != want {
					t.Errorf("%s: -want +got, run with -update to accept:\n%s", s.Name, cmp.Diff(want, string(s.Data)))
				}
			}
			if *update {
				write(t, file, txtar.Format(c))
			}
		})
	}
}

// File holds what a test got to a file. With -update the file is written instead.
func File(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		write(t, file, []byte(got))
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s: -want +got, run with -update to accept:\n%s", file, cmp.Diff(string(want), got))
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Section is the text of a file of a case, empty if there is none.
func Section(c *txtar.Archive, name string) string {
	if i := index(c, name); i >= 0 {
		return string(c.Files[i].Data)
	}
	return ""
}

func setSection(c *txtar.Archive, s txtar.File) {
	if i := index(c, s.Name); i >= 0 {
		c.Files[i] = s
	} else {
		c.Files = append(c.Files, s)
	}
}

func index(c *txtar.Archive, name string) int {
	return slices.IndexFunc(c.Files, func(f txtar.File) bool { return f.Name == name })
}
