package early

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the keeper small: what it imports initialises before it runs, and later than net/http is too late.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(path, "/")
		ours := strings.HasPrefix(path, "lockstep/nodeagent/logs/keeper") || path == "lockstep/nodeagent/companion/core" ||
			path == "lockstep/internal/shrink"
		if path == "net/http" || strings.Contains(first, ".") || first == "lockstep" && !ours {
			t.Errorf("the log keeper imports %s", path)
		}
	}
}
