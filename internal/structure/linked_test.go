package structure

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/internal/short"
)

// unlinked says of which packages the program may have no function, and why. Imports would tell less: of what libraries
// import, only what is reached is linked.
func unlinked() []rule {
	return []rule{
		{never: []string{
			"k8s.io/client-go/kubernetes", "k8s.io/client-go/kubernetes/", "k8s.io/client-go/informers", "k8s.io/client-go/informers/",
			"k8s.io/client-go/listers/",
		},
			but: []string{
				"k8s.io/client-go/kubernetes/scheme", "k8s.io/client-go/kubernetes/typed/core/v1",
				"k8s.io/client-go/kubernetes/typed/coordination/v1", "k8s.io/client-go/kubernetes/typed/discovery/v1",
				"k8s.io/client-go/kubernetes/typed/node/v1",
			},
			reason: "a clientset and an informer factory link the clients of all groups with all of their methods, a sixth of the " +
				"program: nodeagent/client has the groups that a node uses, nodeagent/cluster its informers"},
		{never: []string{"testing", "k8s.io/client-go/testing", "k8s.io/client-go/kubernetes/fake"},
			reason: "what serves tests is not part of the program"},
		{never: []string{"k8s.io/kubectl/", "k8s.io/cli-runtime/", "k8s.io/apiserver/pkg/server"},
			reason: "of Kubernetes' programs only their types, their rules and small parts are used"},
	}
}

// TestProgramLinksLittle holds the program to unlinked.
func TestProgramLinksLittle(t *testing.T) {
	short.Leave(t, "linking the whole program")
	program := filepath.Join(t.TempDir(), "lockstep")
	build := exec.Command("go", "build", "-ldflags=-w", "-o", program, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("go", "tool", "nm", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	functions, told := 0, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) < 3 || !strings.EqualFold(words[1], "t") {
			continue
		}
		functions++
		name := packageOf(words[2])
		for _, r := range unlinked() {
			if matches(name, r.never) && !matches(name, r.but) && !told[r.reason] {
				told[r.reason] = true
				t.Errorf("the program has %s: %s", words[2], r.reason)
			}
		}
	}
	if functions < 10_000 {
		t.Fatalf("found %d functions: is this the program?", functions)
	}
}

// packageOf is the package of a function, by its symbol: that of the generic one where types are filled in.
func packageOf(symbol string) string {
	symbol, _, _ = strings.Cut(symbol, "[")
	folder := strings.LastIndex(symbol, "/") + 1
	name, _, _ := strings.Cut(symbol[folder:], ".")
	return symbol[:folder] + name
}
