package command

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	told = regexp.MustCompile("(?m)(?:`|^    (?:\\$ )?)(?:bin/)?lockstep ([a-z][^`\n]*)")
	flag = regexp.MustCompile(`--[a-z-]+`)
)

// TestPagesTellWhatThereIs looks up every command and flag of lockstep that the pages tell to use.
func TestPagesTellWhatThereIs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range told.FindAllStringSubmatch(string(text), -1) {
			found++
			line, _, _ := strings.Cut(m[1], " #")
			c, rest, err := newRoot().Find(strings.Fields(flag.ReplaceAllString(line, "")))
			if err != nil || c.Name() == "lockstep" || c.HasSubCommands() && len(rest) > 0 {
				t.Errorf("%s tells to run lockstep %s: %v", page, m[1], err)
				continue
			}
			for _, name := range flag.FindAllString(line, -1) {
				if c.Flags().Lookup(strings.TrimPrefix(name, "--")) == nil {
					t.Errorf("%s tells to run lockstep %s: there is no %s", page, m[1], name)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d commands", found)
	}
}
