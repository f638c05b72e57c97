package structure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// A line of Go fits in this many columns, so that two files stand side by side and a difference is read without scrolling.
// A tab counts as four of them: that is the narrowest at which editors and forges commonly show one.
const (
	columns = 140
	tab     = 4
)

func width(line string) int { return utf8.RuneCountInString(line) + (tab-1)*strings.Count(line, "\t") }

func TestLinesFit(t *testing.T) {
	for _, files := range packages(t) {
		for _, f := range files {
			source, err := os.ReadFile(filepath.Join(root, f.path))
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(source), "\n") {
				if w := width(line); w > columns {
					t.Errorf("%s:%d has %d columns, %d are the most", f.path, i+1, w, columns)
				}
			}
		}
	}
}
