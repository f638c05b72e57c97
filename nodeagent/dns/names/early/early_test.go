package early

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports keeps the process small: what it imports initialises before it runs, and later than net/http is too late.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	fine := []string{
		"github.com/miekg/dns", "golang.org/x", "lockstep/nodeagent/dns/names", "lockstep/nodeagent/companion/core",
		"lockstep/internal/quota", "lockstep/internal/shrink", "vendor/golang.org/x",
	}
	for _, path := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(path, "/")
		ours := slices.ContainsFunc(fine, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
		if path == "net/http" || (strings.Contains(first, ".") || first == "lockstep") && !ours {
			t.Errorf("the names process imports %s", path)
		}
	}
}
