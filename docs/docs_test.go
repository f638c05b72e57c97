// Package docs tests what the documentation shows.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"lockstep/daemon/config/profiles"
	"lockstep/sync/manifest"
)

// pages are all pages of the documentation, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range append(files, "../README.md", "../CONTRIBUTING.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[file] = string(text)
	}
	return out
}

var fenced = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// TestYAML reads every block of YAML as the program reads it: Source documents as its configuration, others as manifests.
func TestYAML(t *testing.T) {
	blocks := 0
	for page, text := range pages(t) {
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			if m[1] != "yaml" {
				t.Errorf("%s has a block of %q; indent what is no YAML", page, m[1])
				continue
			}
			blocks++
			if strings.Contains(m[2], "kind: Source\n") || strings.Contains(m[2], "kind: KubeSchedulerConfiguration\n") {
				file := filepath.Join(t.TempDir(), "lockstep.yaml")
				if err := os.WriteFile(file, []byte(m[2]), 0o600); err != nil {
					t.Fatal(err)
				}
				if sources, declared, err := profiles.Read(file); err != nil || len(sources)+len(declared) == 0 {
					t.Errorf("%s: %d sources, %v, in\n%s", page, len(sources), err, m[2])
				}
				continue
			}
			read(t, page, m[2])
		}
	}
	if blocks < 2 {
		t.Errorf("found %d blocks of YAML", blocks)
	}
}

// TestExample reads the example as one source.
func TestExample(t *testing.T) {
	files, err := filepath.Glob("../manifests-example/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n" + string(text) + "\n")
	}
	read(t, "manifests-example", all.String())
}

func read(t *testing.T, from, text string) {
	t.Helper()
	set, errs := manifest.Read(t.Context(), []manifest.File{{
		Path: "block.yaml",
		Data: func() ([]byte, error) { return []byte(text), nil },
	}}, manifest.Options{})
	if len(errs) > 0 || len(set.Objects) == 0 {
		t.Errorf("%s: %v, in\n%s", from, errs, text)
	}
}

var link = regexp.MustCompile(`\]\(([^)]+)\)`)

// TestLinks follows every link to another page, and to a heading in it.
func TestLinks(t *testing.T) {
	for page, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to, other := page, text
			if target != "" {
				to = filepath.Join(filepath.Dir(page), target)
				raw, err := os.ReadFile(to)
				if err != nil {
					t.Errorf("%s links to %s: %v", page, m[1], err)
					continue
				}
				other = string(raw)
			}
			if heading != "" && !headings(other)[heading] {
				t.Errorf("%s links to %s: %s has no such heading", page, m[1], to)
			}
		}
	}
}

// headings are the anchors that forges give to a page's headings.
func headings(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		out[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title))] = true
	}
	return out
}

// TestTargets: what the pages tell to make, the Makefile has.
func TestTargets(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+):.*## `).FindAllStringSubmatch(string(makefile), -1) {
		known[m[1]] = true
	}
	found := 0
	for page, text := range pages(t) {
		for _, m := range regexp.MustCompile("(?m)(?:`|^    )make ([a-z0-9-]+)").FindAllStringSubmatch(text, -1) {
			found++
			if !known[m[1]] {
				t.Errorf("%s tells to make %s, which the Makefile lacks", page, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("found no target")
	}
}
