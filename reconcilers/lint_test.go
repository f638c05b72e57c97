package reconcilers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// deciding are the files of the repository that decide and do not act, as patterns from its root; tests aside. A
// decision is a pure function of its arguments, so that it can be repeated, tested by golden files, and explained.
// Behind a pattern stand packages that those files may import besides allowed.
func deciding() map[string][]string {
	return map[string][]string{
		"reconcilers/scheduler/decide.go":     nil,
		"reconcilers/scheduler/demand.go":     nil,
		"reconcilers/scheduler/node.go":       nil,
		"reconcilers/scheduler/predicates.go": nil,
		"reconcilers/scheduler/resources.go":  nil,
		"reconcilers/scheduler/scores.go":     nil,
		"reconcilers/scheduler/state.go":      nil,
		"reconcilers/scheduler/table.go":      nil,
		"reconcilers/pods/*.go":               nil,
		"reconcilers/cluster/*.go":            nil,
		"reconcilers/namespace/*.go":          nil,
		"reconcilers/serviceaccount/*.go":     nil,
		"reconcilers/rootca/*.go":             nil,
		"reconcilers/nodecidr/*.go":           nil,
		"reconcilers/nodelifecycle/*.go":      nil,
		"reconcilers/serviceip/*.go":          nil,
		"reconcilers/deployment/*.go":         nil,
		"reconcilers/replicaset/*.go":         nil,
		"reconcilers/endpoints/*.go":          {"k8s.io/kubernetes/pkg/api/v1/endpoints"},
		"reconcilers/endpointslice/*.go":      nil,
		"reconcilers/garbagecollection/*.go":  nil,
		"sync/plan/*.go":                      {"lockstep/sync/origin"},
		"sync/origin/*.go":                    nil,
		"sync/health/*.go":                    nil,
		"sync/verdict/*.go":                   {"lockstep/internal/plain", "lockstep/sync/health"},
		"proxy/rules/*.go":                    nil,
		"nodeagent/pods/*.go":                 nil,
		// net is for JoinHostPort. The default seccomp profile asks for the kernel's version, which no decision outlives.
		"nodeagent/spec/*.go": {
			"net", "github.com/opencontainers/runtime-spec/specs-go", "github.com/opencontainers/image-spec/specs-go/v1",
			"github.com/containerd/containerd/v2/contrib/seccomp", "k8s.io/kubernetes/pkg/fieldpath",
			"k8s.io/kubernetes/third_party/forked/golang/expansion",
		},
		"nodeagent/dns/names/answer.go": {"github.com/miekg/dns"},
		"nodeagent/dns/zone.go":         {"lockstep/nodeagent/dns/names"},
		"reconcilers/loop/*.go":         nil,
		"reconcilers/engine/check.go":   nil,
		"daemon/etcd/decide.go":         nil,
		"daemon/rights/*.go":            {"k8s.io/kubernetes/pkg/api/v1/pod", "k8s.io/kubelet/pkg/apis"},
		"daemon/web/model.go":           {"net/url", "lockstep/internal/giturl", "lockstep/daemon/provenance", "lockstep/sync/health", "lockstep/sync/plan"},
	}
}

// allowed are the packages that deciding code may import directly; a path that ends in a slash allows all below it. Each
// of them computes and does nothing else; "io" is for errors and readers of bytes, klog for the logger that
// component-helpers' functions want to be given.
func allowed() []string {
	return []string{
		"bytes", "cmp", "container/heap", "crypto/sha256", "encoding/base32", "encoding/binary", "encoding/hex", "encoding/json",
		"errors", "fmt", "hash/fnv", "io", "iter", "maps", "math", "math/big", "math/bits", "net/netip", "path", "reflect",
		"regexp", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
		"k8s.io/api/", "k8s.io/apimachinery/pkg/", "k8s.io/component-helpers/", "k8s.io/klog/v2", "k8s.io/utils/dump", "k8s.io/utils/ptr",
		"lockstep/store/view", "lockstep/kinds", "lockstep/kinds/quantity", "lockstep/kinds/v1alpha1", "lockstep/reconcilers/loop", "lockstep/reconcilers/pods",
	}
}

// clocks are what package time may not be asked by deciding code.
func clocks() []string {
	return []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
}

func TestDecidingCodeIsPure(t *testing.T) {
	for pattern, also := range deciding() {
		files, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
		if len(files) == 0 {
			t.Errorf("%s: no such file: take it from the list, or name the one that it became", pattern)
		}
		for _, file := range files {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range impurities(f, also) {
				t.Errorf("%s: %s", fset.Position(problem.pos), problem.text)
			}
		}
	}
}

// TestLintFindsImpurity tries the lint on code that has every fault.
func TestLintFindsImpurity(t *testing.T) {
	const source = `package p

import (
	"math/rand/v2"
	clock "time"
)

var _ error = nil
var ErrFine = errors.New("a sentinel")
var cache = map[string]int{}

func f() { go f(); clock.Sleep(1); _ = clock.Now() }
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, problem := range impurities(f, nil) {
		got = append(got, problem.text)
	}
	want := []string{
		"imports math/rand/v2, which is not on the list", "has the package variable cache", "starts a goroutine",
		"asks the clock: time.Sleep", "asks the clock: time.Now",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

type impurity struct {
	pos  token.Pos
	text string
}

func impurities(f *ast.File, also []string) (list []impurity) {
	found := func(n ast.Node, format string, args ...any) {
		list = append(list, impurity{n.Pos(), fmt.Sprintf(format, args...)})
	}
	timeName := ""
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser lets none through
		}
		if !slices.ContainsFunc(append(allowed(), also...), func(a string) bool { return path == a || strings.HasSuffix(a, "/") && strings.HasPrefix(path, a) }) ||
			strings.HasSuffix(path, "/util/rand") && !onlyEncodes(f) {
			found(spec, "imports %s, which is not on the list", path)
		}
		if path == "time" {
			timeName = "time"
			if spec.Name != nil {
				timeName = spec.Name.Name
			}
		}
	}
	for _, decl := range f.Decls {
		if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.VAR {
			for _, spec := range gen.Specs {
				if v := spec.(*ast.ValueSpec); !harmless(v) {
					found(v, "has the package variable %s", v.Names[0].Name)
				}
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found(n, "starts a goroutine")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == timeName && slices.Contains(clocks(), n.Sel.Name) {
				found(n, "asks the clock: time.%s", n.Sel.Name)
			}
		}
		return true
	})
	return list
}

// harmless variables are assertions about types, and sentinel errors.
func harmless(v *ast.ValueSpec) bool {
	if v.Names[0].Name == "_" {
		return true
	}
	if len(v.Values) != 1 {
		return false
	}
	call, ok := v.Values[0].(*ast.CallExpr)
	if !ok {
		return false
	}
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := fun.X.(*ast.Ident)
	return ok && x.Name == "errors" && fun.Sel.Name == "New"
}

// onlyEncodes says that the file uses of apimachinery's package rand nothing but its alphabet.
func onlyEncodes(f *ast.File) bool {
	only := true
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "rand" && s.Sel.Name != "SafeEncodeString" {
				only = false
			}
		}
		return true
	})
	return only
}
