package docs

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tree is what lies below the root: files and folders by path, each folder with whether it is a package, and the names of tests.
type tree struct {
	paths map[string]bool
	tests map[string]bool
}

func walk(t *testing.T) tree {
	t.Helper()
	out := tree{map[string]bool{}, map[string]bool{}}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(filepath.ToSlash(name), "../")
		switch {
		case err != nil || name == "..":
			return err
		case rel == "bin" || rel == ".git": // the latter is a file in a worktree
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			out.paths[rel] = false
			return nil
		}
		out.paths[rel] = false
		if path.Ext(rel) != ".go" {
			return nil
		}
		out.paths[path.Dir(rel)] = true
		if !strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(name)
		for _, m := range declared.FindAllSubmatch(source, -1) {
			out.tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// has tells whether there is such a file or folder: by its whole path where that begins with a room, else by the end of it. A star
// is any text without a slash.
func (tr tree) has(name string) bool {
	_, room := tr.paths[strings.Split(name, "/")[0]]
	for p := range tr.paths {
		parts := strings.Split(p, "/")
		from := len(parts) - 1 - strings.Count(name, "/")
		if from < 0 || room && from > 0 {
			continue
		}
		if ok, _ := path.Match(name, strings.Join(parts[from:], "/")); ok {
			return true
		}
	}
	return false
}

var (
	quoted = regexp.MustCompile("`([^`\n]+)`")
	// file is a path, of which the names of constants in security.md's table are none.
	file  = regexp.MustCompile(`^[\w*-][\w.*-]*(/[\w*-][\w.*-]*)*/?$`)
	named = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
)

// TestNames finds every file, folder and test that the pages name.
func TestNames(t *testing.T) {
	tr := walk(t)
	sources := []string{".go", ".sh", ".golden", ".txtar"}
	files, tests := 0, 0
	for page, text := range pages(t) {
		for _, m := range quoted.FindAllStringSubmatch(bound.ReplaceAllString(text, ""), -1) {
			for _, word := range strings.Fields(m[1]) {
				first, _, below := strings.Cut(word, "/")
				_, ours := tr.paths[first]
				if !file.MatchString(word) || !(below && ours) && !slices.Contains(sources, path.Ext(word)) {
					continue
				}
				files++
				if !tr.has(strings.TrimSuffix(word, "/")) && word != "bench/results.json" { // that one is written by a run
					t.Errorf("%s names %s, which is not there", page, word)
				}
			}
		}
		for _, name := range named.FindAllString(text, -1) {
			tests++
			if !tr.tests[name] {
				t.Errorf("%s names %s, which no test is called", page, name)
			}
		}
	}
	if files < 50 || tests < 50 {
		t.Errorf("found %d files and %d tests", files, tests)
	}
}

// TestRooms holds the list of rooms to the tree: each folder that it names is there, and it names each package that is not deeper
// than two folders. Reconcilers have a list of their own.
func TestRooms(t *testing.T) {
	_, rest, _ := strings.Cut(pages(t)["development.md"], "\n## The rooms\n")
	list, _, _ := strings.Cut(rest, "\n## ")
	tr := walk(t)
	listed := map[string]bool{}
	var at []string // the room of the line and those that it is in
	for line := range strings.Lines(list) {
		entry, ok := strings.CutPrefix(line, "    ")
		if !ok || strings.TrimSpace(entry) == "" {
			continue
		}
		words := strings.Fields(entry)
		if depth := (len(entry) - len(strings.TrimLeft(entry, " "))) / 2; depth <= len(at) && depth < 3 {
			at = append(at[:depth:depth], words[0])
			words = words[1:]
			listed[path.Join(at...)] = true
		}
		for _, word := range words { // rooms below this one
			if word = strings.TrimLeft(word, "("); strings.HasSuffix(word, "/") {
				listed[path.Join(append(at, word)...)] = true
			}
		}
	}
	for _, room := range slices.Sorted(maps.Keys(listed)) {
		if _, ok := tr.paths[room]; !ok {
			t.Errorf("%s is listed and not there", room)
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(tr.paths)) {
		if tr.paths[folder] && folder != "." && strings.Count(folder, "/") < 2 && path.Dir(folder) != "reconcilers" && !listed[folder] {
			t.Errorf("%s is not listed", folder)
		}
	}
}

// TestVersions: the releases that the pages name are those that the program is made of.
func TestVersions(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	release := func(module string) string {
		m := regexp.MustCompile(`(?m)^\t` + regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(mod)
		if m == nil {
			t.Fatalf("go.mod has no %s", module)
		}
		return string(m[1])
	}
	kubernetes := strings.Join(strings.Split(release("k8s.io/kubernetes"), ".")[:2], ".")
	for page, text := range map[string]string{
		"operations.md": "The embedded etcd is " + release("go.etcd.io/etcd/server/v3") + ".",
		"agent.md":      "are Kubernetes' (" + kubernetes + ").",
	} {
		if !strings.Contains(pages(t)[page], text) {
			t.Errorf("%s does not say: %s", page, text)
		}
	}
}
