package command

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestMisuse gives every command a flag and arguments that it does not know: each answers in the same form.
func TestMisuse(t *testing.T) {
	var paths [][]string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		paths = append(paths, strings.Fields(c.CommandPath())[1:])
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	if len(paths) < 15 {
		t.Fatalf("found %d commands", len(paths))
	}
	for _, path := range paths {
		for _, wrong := range [][]string{{"--no-such-flag"}, {"-Z"}, {"nope1", "nope2", "--no-such-flag"}, {"nope1", "nope2"}} {
			if name := strings.Join(path, " "); len(wrong) == 2 && name == "validate" {
				continue // takes any number
			}
			root := newRoot()
			root.SetArgs(append(append([]string{}, path...), wrong...))
			root.SetOut(io.Discard)
			root.SetErr(io.Discard)
			err := root.ExecuteContext(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), "cannot run lockstep") || !strings.Contains(err.Error(), "\nusage: lockstep") {
				t.Errorf("lockstep %q %q: %v", path, wrong, err)
			}
		}
	}
}
