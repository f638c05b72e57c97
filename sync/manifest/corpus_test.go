//go:build corpus

package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/internal/golden"
	"lockstep/sync/manifest/tree"
)

// TestCorpus reads real public manifests, unchanged, from $LOCKSTEP_CORPUS, each folder as a source of its own, and
// compares the verdicts, and how many files are accepted, with testdata/corpus.golden. It belongs to make test-corpus.
func TestCorpus(t *testing.T) {
	root := os.Getenv("LOCKSTEP_CORPUS")
	if root == "" {
		t.Fatal("LOCKSTEP_CORPUS names no folder")
	}
	folders := map[string][]File{}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil || !tree.Wanted(filepath.ToSlash(rel)) {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f := fileOf(filepath.ToSlash(rel), data)
		folders[path.Dir(f.Path)] = append(folders[path.Dir(f.Path)], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all, accepted := 0, 0
	for _, files := range folders {
		for _, f := range files {
			all++
			if _, errs := Read(t.Context(), []File{f}, Options{}); len(errs) == 0 {
				accepted++
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d files are accepted by themselves\n\n", accepted, all)
	for _, folder := range sortedKeys(folders) {
		set, errs := Read(t.Context(), folders[folder], Options{})
		if len(errs) > 0 {
			fmt.Fprintf(&b, "%s: refused\n%s\n\n", folder, errs)
			continue
		}
		fmt.Fprintf(&b, "%s: accepted\n", folder)
		for _, o := range set.Objects {
			fmt.Fprintf(&b, "%s:%d:%d: %v\n", o.File, o.Line, o.Column, o.Key)
		}
		b.WriteByte('\n')
	}
	for _, must := range []string{
		"kubernetes-examples/web/guestbook/all-in-one/guestbook-all-in-one.yaml",
		"voting-app/k8s-specifications",
	} {
		var files []File
		for _, folder := range folders {
			for _, f := range folder {
				if f.Path == must || path.Dir(f.Path) == must {
					files = append(files, f)
				}
			}
		}
		if _, errs := Read(t.Context(), files, Options{}); len(files) == 0 || len(errs) > 0 {
			t.Errorf("%s (%d files) must be accepted:\n%v", must, len(files), errs)
		}
	}
	golden.File(t, "testdata/corpus.golden", b.String())
}
