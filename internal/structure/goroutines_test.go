package structure

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// startsAlone are the functions that start a goroutine by a go statement, with what ends it and why it is nobody's to wait
// for. All others have theirs in a group (errgroup.Group, sync.WaitGroup), and wait for it before they return.
func startsAlone() map[string]string {
	return map[string]string{
		"internal/thread Own":               "waited for; its thread may not be used again",
		"nodeagent/process Reap":            "ends with a process that may outlive this one",
		"daemon run":                        "stands still where etcd's disk does; the process ends then",
		"daemon/etcd startEmbedded":         "stands still where the disk does; the process starts again then",
		"daemon/etcd Run":                   "both stand still where the disk does; waited for unless they do",
		"daemon/api Watch":                  "ends with the watch that it shows, or when it is stopped",
		"daemon/api/watch start":            "ends with the request, and tells it by closing the watch's channel",
		"sync/source/clone serve":           "reads what is asked until the process ends, which it brings about",
		"nodeagent/images fly":              "goes on for the next who wants the image, and ends with the download",
		"nodeagent/companion/core Serve":    "one a connection, ends with it; its process ends by its successor's coming",
		"nodeagent/dns/names run":           "listens until the process ends",
		"nodeagent/logs/keeper run":         "listens until the process ends",
		"nodeagent/logs/keeper start":       "compresses a file; none depends on it, and the next rotation asks again",
		"nodeagent/logs/keeper enqueue":     "ends when all is written, which flush waits for",
		"bench again":                       "hands signals on until the program ends",
		"bench connect":                     "ends with its listener",
		"bench repository":                  "ends with its listener",
		"bench launch":                      "ends with a cluster's process, which down waits for",
		"lab reap":                          "ends with a process that outlives the program",
		"lab RunForward":                    "one a connection, until the program is killed",
		"lab pass":                          "ends with its connection",
		"lab startHolder":                   "ends with a process that outlives the program",
		"lab RunHub":                        "serves until the program ends, which the first failure brings about",
		"lab/faults/load printLines":        "serves until the program ends",
		"lab/faults/load answer":            "serves until the program ends",
		"lab/githost exec":                  "ends with the client's connection, which may outlive Git's answer",
		"lab/reading/talker main":           "serves until the program ends",
		"lab/standin serve":                 "serves until the program ends",
		"manifests-example/images/api main": "as programs that people write have it",
		"manifests-example/images/web main": "as programs that people write have it",
	}
}

// TestGoroutinesAreWaitedFor: what is started by a go statement is easily forgotten, so only functions that say why may.
func TestGoroutinesAreWaitedFor(t *testing.T) {
	excused := startsAlone()
	for dir, files := range packages(t) {
		if within(dir, forTests()) {
			continue
		}
		for _, f := range files {
			if f.test() {
				continue
			}
			for _, s := range goStatements(t, f.path) {
				name := dir + " " + s.function
				if startsAlone()[name] == "" {
					t.Errorf("%s: %s starts a goroutine that is in no group: give it to an errgroup.Group or a "+
						"sync.WaitGroup that is waited for, or say in startsAlone() why it is not", s.at, s.function)
				}
				delete(excused, name)
			}
		}
	}
	for name := range excused {
		t.Errorf("%s is excused, and starts no goroutine, or is not there", name)
	}
}

type goStatement struct{ at, function string }

// goStatements finds a file's go statements.
func goStatements(t *testing.T, name string) (found []goStatement) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range f.Decls {
		function := ""
		if d, ok := decl.(*ast.FuncDecl); ok {
			function = d.Name.Name
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if s, ok := n.(*ast.GoStmt); ok {
				found = append(found, goStatement{fmt.Sprintf("%s:%d", name, fset.Position(s.Pos()).Line), function})
			}
			return true
		})
	}
	return found
}
