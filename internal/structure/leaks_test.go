package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
)

// leaks are the packages that start goroutines and whose tests do not look for those that stay, with the reason.
func leaks() map[string]string {
	return map[string]string{
		"internal/csidriver": "what runs csi-test's checks leaves a goroutine for its signals, and has no end",
	}
}

// lookers are the calls that look for goroutines after all tests of a package; lab/programs calls the second.
func lookers() []string { return []string{"goleak.VerifyTestMain", "goleak.Find", "programs.Main"} }

// TestLeaksAreLookedFor wants goleak in every package whose code or tests start goroutines. A package that has no tests of
// its own is tried by others.
func TestLeaksAreLookedFor(t *testing.T) {
	excused := leaks()
	for dir, files := range packages(t) {
		starts, tested, looked := "", false, false
		for _, f := range files {
			g, l := goroutines(t, f.path)
			if g && starts == "" {
				starts = f.path
			}
			tested, looked = tested || f.test(), looked || l
		}
		if starts == "" || !tested || looked {
			continue
		}
		if leaks()[dir] == "" {
			t.Errorf("%s: %s starts a goroutine: have TestMain call goleak.VerifyTestMain, or say in leaks() why not", dir, starts)
		}
		delete(excused, dir)
	}
	for dir := range excused {
		t.Errorf("%s is excused from looking for goroutines, and looks for them, starts none, or is not there", dir)
	}
}

// goroutines says whether a file starts any, by a go statement or a group, and whether it has its package's tests look for
// those that stay.
func goroutines(t *testing.T, name string) (starts, looks bool) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			starts = true
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok {
				of, _ := s.X.(*ast.Ident)
				starts = starts || s.Sel.Name == "Go"
				looks = looks || of != nil && slices.Contains(lookers(), of.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return starts, looks
}
