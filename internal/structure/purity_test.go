package structure

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms are the folders where every package decides and does not act, unless it is listed below as acting. A decision is a
// pure function of its arguments, so that it can be repeated, tested by golden files, and explained.
func rooms() []string {
	return []string{"kinds", "reconcilers", "sync", "proxy", "nodeagent", "daemon", "store"}
}

// acting are the packages of these rooms that act, and the files where the rest of their package decides, with what they do.
func acting() map[string]string {
	return map[string]string{
		"kinds/kinds.go":                     "has the table and its indexes in package variables",
		"kinds/podsecurity":                  "has Kubernetes' checks in a package variable",
		"kinds/quantity":                     "has the decoders that it has made in package variables",
		"kinds/strategy":                     "hands objects to Kubernetes' own rules",
		"kinds/v1alpha1":                     "has its group's name in a package variable",
		"reconcilers/drivers":                "speaks to the controllers of CSI drivers",
		"reconcilers/engine/engine.go":       "runs workers, by a clock",
		"reconcilers/engine/ledger.go":       "knows what other turns create",
		"reconcilers/engine/metrics.go":      "counts",
		"reconcilers/engine/rules.go":        "hands Kubernetes' rules to what prepares",
		"reconcilers/engine/step.go":         "runs turns for tests",
		"reconcilers/engine/turn.go":         "writes and tells",
		"reconcilers/engine/wake.go":         "follows the store",
		"reconcilers/scheduler/act.go":       "writes bindings, refusals and evictions",
		"reconcilers/scheduler/metrics.go":   "counts",
		"reconcilers/scheduler/scheduler.go": "follows the store",
		"reconcilers/scheduler/writing.go":   "writes while others are decided",
		"sync":                               "drives the sources: queues, timers, writes",
		"sync/apply":                         "writes to the store",
		"sync/forge":                         "posts to forges",
		"sync/found":                         "writes to the store",
		"sync/manifest":                      "reads a tree's files at once, within a bound of memory, and remembers types",
		"sync/manifest/tree":                 "walks folders",
		"sync/manifest/validate":             "reads the folders that it is named",
		"sync/source":                        "reads repositories and folders",
		"sync/source/clone":                  "speaks to Git servers, in a process of its own",
		"proxy":                              "runs iptables and netlink",
		"store":                              "speaks to etcd",
		"store/view/db.go":                   "is written to while others read",
		"daemon":                             "runs what the process is made of",
		"daemon/api":                         "serves the API",
		"daemon/api/accounts":                "signs and reads tokens, by a clock",
		"daemon/api/schema":                  "has its tables in package variables",
		"daemon/api/peers":                   "asks other servers",
		"daemon/api/tunnel":                  "holds the agents' connections",
		"daemon/api/watch":                   "follows the store, and sends what changes",
		"daemon/command":                     "is the command line",
		"daemon/config":                      "reads files",
		"daemon/config/profiles":             "reads files",
		"daemon/control":                     "serves a socket",
		"daemon/encryption":                  "reads files, seals values, and replaces keys",
		"daemon/etcd":                        "runs etcd, and looks after it",
		"daemon/heap":                        "sets the collector's pace by the process's memory",
		"daemon/members":                     "asks other servers, and changes etcd's members",
		"daemon/pki":                         "makes keys, and keeps certificates",
		"daemon/provenance":                  "remembers what it has written out",
		"daemon/backup":                      "reads and writes files",
		"daemon/rebuild":                     "writes to the store",
		"daemon/usage":                       "asks agents, by a clock",
		"daemon/version":                     "is set by the linker",
		"daemon/web":                         "serves the status page",
		"nodeagent":                          "runs what a node is made of",
		"nodeagent/beneath":                  "works on files",
		"nodeagent/cgroup":                   "works on cgroups",
		"nodeagent/client":                   "makes connections to the API",
		"nodeagent/cluster":                  "follows the API, and keeps a copy",
		"nodeagent/companion":                "starts processes",
		"nodeagent/companion/core":           "is such a process: sockets, signals, memory",
		"nodeagent/content":                  "watches the API, and keeps a copy",
		"nodeagent/csi":                      "speaks to drivers, and keeps records of volumes",
		"nodeagent/devices":                  "reads the files that describe devices",
		"nodeagent/dns":                      "has names answered by a process, and tells it what",
		"nodeagent/dns/names":                "answers questions",
		"nodeagent/dns/names/early":          "runs before all else is initialised",
		"nodeagent/images":                   "pulls images, and removes them",
		"nodeagent/ingress":                  "serves requests",
		"nodeagent/localpath":                "follows the API, and works on files",
		"nodeagent/logind":                   "speaks to logind",
		"nodeagent/logs":                     "speaks to the log keeper, and reads logs",
		"nodeagent/logs/keeper":              "reads pipes, and writes files",
		"nodeagent/logs/keeper/early":        "runs before all else is initialised",
		"nodeagent/machine":                  "joins the parts of the real machine",
		"nodeagent/network":                  "makes namespaces and links",
		"nodeagent/pod":                      "carries out a pod's steps",
		"nodeagent/preflight":                "looks at the machine",
		"nodeagent/projects":                 "asks the kernel",
		"nodeagent/probes":                   "asks containers",
		"nodeagent/process":                  "looks at processes, and ends them",
		"nodeagent/register":                 "joins, and reports to the API",
		"nodeagent/replica":                  "keeps a copy in files",
		"nodeagent/runtime":                  "speaks to containerd",
		"nodeagent/sealing":                  "works on files",
		"nodeagent/servers":                  "asks servers whether they serve",
		"nodeagent/stats":                    "measures",
		"nodeagent/supervise":                "starts again what ended",
		"nodeagent/tokens":                   "asks the API, and keeps the answers",
		"nodeagent/tunnel":                   "serves over a connection that it opens",
		"nodeagent/turns":                    "lets a few at a time",
		"nodeagent/userns":                   "keeps records in files, and asks getsubids",
		"nodeagent/volumes":                  "works on files and mounts",
	}
}

// deciding are files that decide though their package acts, or is in another room, and those that may import more than
// allowed, which stands behind: as patterns from the root.
func deciding() map[string][]string {
	return map[string][]string{
		"reconcilers/reconcilers.go": {"lockstep/reconcilers/"}, // it lists them
		"kinds/admission/*.go": {"k8s.io/kubernetes/pkg/apis/scheduling/v1", "k8s.io/kubernetes/pkg/apis/core/v1/helper",
			"k8s.io/apiserver/pkg/quota/v1", "lockstep/kinds/podstatus"},
		"kinds/ingress/*.go":                  {"crypto/tls", "net/url"}, // to read what is in a Secret, and where a redirect goes
		"reconcilers/scheduler/expression.go": {"github.com/google/cel-go/cel"},
		// What drivers are asked is told in the words of their protocol.
		"reconcilers/csi/*.go": {"github.com/container-storage-interface/spec/lib/go/csi", "google.golang.org/grpc/codes",
			"google.golang.org/grpc/status"},
		"reconcilers/autoscaler/*.go":   {"k8s.io/metrics/pkg/apis/metrics/v1beta1"},
		"kinds/roles/*.go":              {"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"},
		"reconcilers/drain/*.go":        {"lockstep/reconcilers/disruption"}, // it goes by budgets
		"reconcilers/cronjob/*.go":      {"github.com/robfig/cron/v3", "k8s.io/kubernetes/pkg/util/parsers"},
		"reconcilers/endpoints/*.go":    {"k8s.io/kubernetes/pkg/api/v1/endpoints"},
		"reconcilers/mirror/*.go":       {"k8s.io/kubernetes/pkg/api/v1/endpoints"},
		"reconcilers/engine/prepare.go": {"lockstep/store"}, // for the form of a write
		"proxy/change.go":               {"lockstep/proxy/rules"},
		"proxy/drift.go":                {"lockstep/proxy/rules"},
		"sync/plan/*.go":                {"lockstep/sync/origin", "lockstep/internal/near"},
		"sync/roster/*.go":              {"lockstep/internal/giturl"},
		"sync/report/*.go":              {"lockstep/sync/health", "lockstep/sync/plan"},
		"sync/verdict/*.go":             {"lockstep/sync/health"},
		// A renderer that runs long is stopped.
		"sync/render/*.go": {"context", "lockstep/sync/manifest", "lockstep/sync/origin"},
		// net is for JoinHostPort. The default seccomp profile asks for the kernel's version, which no decision outlives.
		"nodeagent/spec/*.go": {
			"net", "github.com/opencontainers/runtime-spec/specs-go", "github.com/opencontainers/image-spec/specs-go/v1",
			"github.com/containerd/containerd/v2/contrib/seccomp", "k8s.io/kubernetes/pkg/fieldpath",
			"k8s.io/kubernetes/third_party/forked/golang/expansion",
			"k8s.io/component-helpers/node/util/sysctl", "k8s.io/kubernetes/pkg/util/kernel", "k8s.io/apimachinery/pkg/util/version",
			"lockstep/nodeagent/variables",
		},
		"nodeagent/variables/*.go":      {"k8s.io/kubernetes/third_party/forked/golang/expansion"},
		"nodeagent/access/*.go":         {"github.com/distribution/reference"},
		"nodeagent/ingress/routes/*.go": {"crypto/tls"}, // the type of certificates
		"nodeagent/eviction/*.go":       {"k8s.io/kubelet/pkg/apis/stats/v1alpha1"},
		"nodeagent/dns/names/answer.go": {"github.com/miekg/dns"},
		"nodeagent/dns/zone.go":         {"lockstep/nodeagent/dns/names"},
		"daemon/etcd/decide.go":         nil,
		"daemon/members/decide.go":      {"lockstep/daemon/etcd"},
		"daemon/encryption/decide.go":   {"lockstep/reconcilers/apiservers", "lockstep/store"},
		"daemon/rebuild/adopt.go":       {"lockstep/internal/recall", "lockstep/store"},
		"daemon/rebuild/shape.go":       {"lockstep/store"},
		"daemon/rebuild/state.go":       nil,
		"internal/settings/*.go":        nil,
		// Kubernetes' evaluator wants a context, which it hands to whoever reads roles and bindings.
		"daemon/rights/*.go": {
			"context", "k8s.io/kubernetes/pkg/api/v1/pod", "k8s.io/kubelet/pkg/apis", "k8s.io/apiserver/pkg/authentication/user",
			"k8s.io/apiserver/pkg/authentication/serviceaccount", "k8s.io/apiserver/pkg/authorization/authorizer",
			"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac", "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy",
			"lockstep/daemon/provenance", "lockstep/internal/recall",
		},
		"daemon/web/model.go": {"net/url", "lockstep/internal/giturl", "lockstep/daemon/provenance", "lockstep/sync/found",
			"lockstep/sync/health", "lockstep/sync/report", "lockstep/sync/verdict"},
	}
}

// allowed are the packages that deciding code may import directly; a path that ends in a slash allows all below it. Each
// of them computes and does nothing else; "io" is for errors and readers of bytes, klog for the logger that
// component-helpers' functions want to be given.
func allowed() []string {
	return []string{
		"bytes", "cmp", "container/heap", "crypto/sha256", "encoding/base32", "encoding/binary", "encoding/hex", "encoding/json",
		"errors", "fmt", "hash/fnv", "io", "iter", "maps", "math", "math/big", "math/bits", "net/netip", "path", "reflect",
		"regexp", "regexp/syntax", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
		"k8s.io/api/", "k8s.io/apimachinery/pkg/", "k8s.io/component-helpers/", "k8s.io/klog/v2", "k8s.io/utils/dump", "k8s.io/utils/ptr",
		"k8s.io/kubernetes/pkg/controller/daemon/util",  // what a daemon's pod is, on which node, and what a strategy allows
		"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos", // the class of a pod
		"lockstep/internal/plain", "lockstep/internal/settings", "lockstep/store/view",
		"lockstep/kinds", "lockstep/kinds/admission", "lockstep/kinds/drift", "lockstep/kinds/ingress",
		"lockstep/kinds/podsecurity", "lockstep/kinds/roles",
		"lockstep/kinds/podstatus", "lockstep/kinds/quantity", "lockstep/kinds/template", "lockstep/kinds/v1alpha1",
		"lockstep/reconcilers/apiservers", "lockstep/reconcilers/loop", "lockstep/reconcilers/pods", "lockstep/reconcilers/revisions",
	}
}

// clocks are what package time may not be asked by deciding code.
func clocks() []string {
	return []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
}

// pureFiles are the files that decide, each with what it may import besides allowed.
func pureFiles(t *testing.T) map[string][]string {
	t.Helper()
	acts, out := acting(), map[string][]string{}
	for dir, files := range packages(t) {
		if acts[dir] != "" || !within(dir, rooms()) || within(dir, forTests()) {
			continue
		}
		for _, f := range files {
			if !f.test() && acts[f.path] == "" {
				out[f.path] = nil
			}
		}
	}
	for pattern, also := range deciding() {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = slices.DeleteFunc(names, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
		if len(names) == 0 {
			t.Errorf("%s: no such file: take it from the list, or name the one that it became", pattern)
		}
		for _, name := range names {
			out[filepath.ToSlash(strings.TrimPrefix(name, root+"/"))] = also
		}
	}
	return out
}

func impuritiesOf(t *testing.T, name string, also []string) (problems []string) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range impurities(f, also) {
		problems = append(problems, fmt.Sprintf("%s: %s", fset.Position(problem.pos), problem.text))
	}
	return problems
}

func TestDecidingCodeIsPure(t *testing.T) {
	for name, also := range pureFiles(t) {
		for _, problem := range impuritiesOf(t, name, also) {
			t.Error(problem)
		}
	}
}

// TestActingPackagesAct: what does not act any more comes off the list.
func TestActingPackagesAct(t *testing.T) {
	all := packages(t)
	for name, what := range acting() {
		files := all[name]
		if path.Ext(name) == ".go" {
			files = slices.DeleteFunc(slices.Clone(all[path.Dir(name)]), func(f file) bool { return f.path != name })
		}
		acts := slices.ContainsFunc(files, func(f file) bool { return !f.test() && len(impuritiesOf(t, f.path, nil)) > 0 })
		if !acts || what == "" {
			t.Errorf("%s is listed as acting, and does not, or is not there, or nobody says what it does", name)
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
		if !matches(path, append(allowed(), also...)) ||
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
