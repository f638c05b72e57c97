package structure

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// file is one Go file, its path relative to the root.
type file struct {
	path  string
	lines int
	ast   *ast.File
}

func (f file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// packages returns the tree's Go files by folder, relative to the root.
func packages(t *testing.T) map[string][]file {
	t.Helper()
	out := map[string][]file{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(name, root), "/"))
		if d.IsDir() {
			if base := d.Name(); rel != "" && (strings.HasPrefix(base, ".") || base == "testdata" || rel == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(rel) != ".go" {
			return nil
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), rel, source, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		out[path.Dir(rel)] = append(out[path.Dir(rel)], file{rel, bytes.Count(source, []byte{'\n'}), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("found %d packages: is this the source tree?", len(out))
	}
	return out
}

// TestPackageComments wants one sentence a package, in one file: what the package is.
func TestPackageComments(t *testing.T) {
	for dir, files := range packages(t) {
		var where []string
		for _, f := range files {
			if f.ast.Doc == nil {
				continue
			}
			where = append(where, f.path)
			text := f.ast.Doc.Text()
			begin := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name == "main" {
				begin = "Command "
			}
			if !strings.HasPrefix(text, begin) {
				t.Errorf("%s: the package comment does not begin with %q", f.path, begin)
			}
		}
		if len(where) != 1 {
			t.Errorf("%s: %d package comments %v, want one", dir, len(where), where)
		}
	}
}

// TestPackageNames refuses packages that are no concept.
func TestPackageNames(t *testing.T) {
	for dir := range packages(t) {
		switch path.Base(dir) {
		case "util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "lib", "types":
			t.Errorf("%s: name the one thing that the package is", dir)
		}
	}
}

// longest is how many lines a file may have before somebody has to say why it is one concept.
const longest = 600

// long are the files that may be longer.
func long() map[string]string {
	return map[string]string{
		"sync/sync_test.go": "one harness (a forge, repositories, a store) and the scenarios that share it",
	}
}

func TestFilesAreShort(t *testing.T) {
	excused := long()
	for _, files := range packages(t) {
		for _, f := range files {
			if f.lines > longest && excused[f.path] == "" {
				t.Errorf("%s has %d lines: is it two concepts? If not, say why in long()", f.path, f.lines)
			}
			if f.lines > longest {
				delete(excused, f.path)
			}
		}
	}
	for name := range excused {
		t.Errorf("%s is excused and is not long, or is not there", name)
	}
}

// rule says who may not import what. Folders stand for all below them.
type rule struct {
	from   []string // folders that are bound; "" is the whole tree
	except []string // folders and files below them that are not
	never  []string // import paths; one that ends in a slash stands for all below it
	but    []string // import paths that are fine all the same
	tests  bool     // test files are bound, too
	reason string
}

func rules() []rule {
	return []rule{
		{from: []string{"nodeagent", "proxy"}, never: []string{
			"lockstep/daemon/", "lockstep/daemon", "lockstep/sync/", "lockstep/sync", "lockstep/reconcilers/",
			"lockstep/reconcilers",
		},
			reason: "a node knows the control plane by its API alone, also where both run in one process"},
		{from: []string{"daemon", "sync", "reconcilers", "kinds"}, except: []string{"daemon/command"},
			never:  []string{"lockstep/nodeagent/", "lockstep/nodeagent", "lockstep/proxy/", "lockstep/proxy"},
			reason: "the control plane knows nodes by what they write to the API alone; only the command line joins the two"},
		{from: []string{"nodeagent/pod", "nodeagent/pods", "nodeagent/spec"}, never: []string{
			"k8s.io/client-go/", "github.com/containerd/containerd/v2/client", "lockstep/nodeagent/content",
			"lockstep/nodeagent", "lockstep/proxy",
		},
			reason: "a pod's loop reaches the cluster and the machine through interfaces, so that it runs on a hollow machine, too"},
		{from: []string{"nodeagent/cluster", "nodeagent/content", "nodeagent/tokens"}, never: []string{
			"lockstep/nodeagent/pod", "lockstep/nodeagent/runtime", "lockstep/nodeagent", "lockstep/proxy/",
			"lockstep/proxy",
		},
			reason: "what is known of the cluster does not depend on what the node does with it"},
		{from: []string{"nodeagent/machine"}, never: []string{
			"k8s.io/client-go/", "lockstep/nodeagent/cluster", "lockstep/nodeagent/content", "lockstep/nodeagent", "lockstep/proxy/",
			"lockstep/proxy",
		},
			reason: "a machine knows nothing of the cluster, nor of the agent whose pods it has"},
		{from: []string{"proxy"}, never: []string{"lockstep/nodeagent/", "lockstep/nodeagent"},
			reason: "the proxy is given what it needs, and could run without the agent"},
		{from: []string{"kinds"}, except: []string{"kinds/strategy", "kinds/drift"}, never: []string{"lockstep/"},
			but: []string{"lockstep/kinds", "lockstep/kinds/ingress", "lockstep/kinds/podsecurity", "lockstep/kinds/podstatus",
				"lockstep/kinds/v1alpha1"},
			reason: "everything imports the table of kinds, so it imports nothing"},
		{from: []string{""}, except: []string{
			"kinds/strategy", "kinds/admission", "kinds/roles", "daemon/api", "daemon/rights", "sync/manifest",
		},
			never: []string{"k8s.io/kubernetes/"},
			but: []string{
				"k8s.io/kubernetes/pkg/credentialprovider", "k8s.io/kubernetes/pkg/credentialprovider/secrets",
				"k8s.io/kubernetes/pkg/probe", "k8s.io/kubernetes/pkg/probe/", "k8s.io/kubernetes/pkg/fieldpath",
				"k8s.io/kubernetes/pkg/api/v1/resource", "k8s.io/kubernetes/pkg/api/v1/endpoints",
				"k8s.io/kubernetes/pkg/controller/daemon/util", "k8s.io/kubernetes/third_party/forked/golang/expansion",
				"k8s.io/kubernetes/pkg/kubelet/util/env", "k8s.io/kubernetes/pkg/apis/core/v1/helper/qos",
				"k8s.io/kubernetes/pkg/util/parsers", "k8s.io/kubernetes/pkg/util/kernel",
			},
			reason: "Kubernetes' types and registry are large and change with every release: they are reached through kinds/strategy; " +
				"what is small and stands alone may be used"},
		{from: []string{"nodeagent", "proxy", "reconcilers", "sync", "kinds"}, never: []string{"go.etcd.io/"},
			reason: "only the store speaks to etcd"},
		{from: []string{"store"}, never: []string{"lockstep/"}, but: []string{
			"lockstep/store", "lockstep/store/view", "lockstep/store/conformance", "lockstep/kinds",
			"lockstep/kinds/quantity", "lockstep/kinds/v1alpha1", "lockstep/internal/sleep", "lockstep/internal/spread",
		},
			reason: "the store keeps objects and knows nothing of what they are for"},
		{from: []string{"reconcilers"}, never: []string{"lockstep/daemon/", "lockstep/daemon", "lockstep/sync/", "lockstep/sync"},
			but:    []string{"lockstep/store", "lockstep/store/view"},
			reason: "reconcilers know objects, not where they come from"},
		{from: []string{"sync"}, never: []string{"lockstep/daemon/", "lockstep/daemon", "lockstep/reconcilers/", "lockstep/reconcilers"},
			but:    []string{"lockstep/store", "lockstep/store/view"},
			reason: "sync states what is wanted, and leaves to reconcilers what becomes of it"},
		{from: []string{""}, except: []string{"sync/source"}, never: []string{"github.com/go-git/"},
			reason: "one place reads Git repositories"},
		{from: []string{""}, except: []string{"sync/forge"}, never: []string{"code.gitea.io/"}, reason: "forges are behind an interface"},
		{from: []string{""}, except: []string{"nodeagent", "bench"}, never: []string{"github.com/containerd/containerd/"},
			reason: "only the node agent runs containers"},
		{from: []string{""}, except: []string{"lab", "bench"}, never: []string{
			"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/informers/", "k8s.io/client-go/listers/",
		},
			reason: "they link the clients of all groups, a sixth of the program: nodeagent/client has those that are used"},
		{from: []string{""}, except: []string{"daemon/command", "lab", "manifests-example", "main.go"},
			never: []string{"github.com/spf13/"}, reason: "flags end at the command line; rooms take Options"},
		{from: []string{""}, except: []string{"lab", "bench", "manifests-example"}, never: []string{
			"lockstep/lab/", "lockstep/lab", "lockstep/internal/apart", "lockstep/internal/asroot", "lockstep/internal/eventually",
			"lockstep/internal/golden", "lockstep/internal/loopback", "lockstep/internal/short", "lockstep/store/memory",
			"lockstep/store/conformance", "lockstep/store/storebench", "lockstep/daemon/etcd/etcdtest",
			"lockstep/sync/forge/forgetest", "lockstep/reconcilers/looptest", "lockstep/proxy/load", "lockstep/nodeagent/baseline",
			"lockstep/nodeagent/pod/conformance", "lockstep/nodeagent/pod/hollow", "testing",
		},
			reason: "what serves tests and benchmarks is not part of the program"},
		{from: []string{""}, never: []string{"log", "math/rand", "io/ioutil", "github.com/pkg/errors", "github.com/sirupsen/logrus"},
			// These turn libraries' loggers into ours.
			except: []string{
				"manifests-example", "daemon/api/server.go", "daemon/etcd/peers.go", "daemon/servers.go", "lab/hub.go",
				"nodeagent/images/images.go",
			},
			reason: "log/slog, math/rand/v2 and the standard library's errors are what this tree uses"},
	}
}

// forTests are folders whose files serve tests without being named so.
func forTests() []string {
	return []string{
		"internal/apart", "internal/asroot", "internal/csidriver", "internal/eventually",
		"internal/golden", "internal/loopback", "internal/short",
		"store/conformance", "store/memory", "store/storebench", "daemon/etcd/etcdtest", "sync/forge/forgetest",
		"reconcilers/looptest", "proxy/load", "nodeagent/baseline", "nodeagent/pod/conformance", "nodeagent/pod/hollow",
		"nodeagent/logind/logindtest",
	}
}

func TestImportDirections(t *testing.T) {
	all := packages(t)
	for _, r := range rules() {
		bound := 0
		for _, dir := range slices.Sorted(maps.Keys(all)) {
			for _, f := range all[dir] {
				if f.test() && !r.tests || !within(f.path, r.from) || within(f.path, r.except) || within(f.path, forTests()) {
					continue
				}
				bound++
				for _, spec := range f.ast.Imports {
					imported, err := strconv.Unquote(spec.Path.Value)
					if err != nil {
						t.Fatal(err)
					}
					if matches(imported, r.never) && !matches(imported, r.but) &&
						!strings.HasPrefix(imported, "lockstep/"+path.Dir(f.path)+"/") {
						t.Errorf("%s imports %s: %s", f.path, imported, r.reason)
					}
				}
			}
		}
		if bound == 0 {
			t.Errorf("no file is bound by the rule of %v: %s", r.from, r.reason)
		}
	}
}

func within(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return f == "" || name == f || strings.HasPrefix(name, f+"/") })
}

func matches(imported string, list []string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		return imported == p || strings.HasSuffix(p, "/") && strings.HasPrefix(imported, p)
	})
}

// TestMainIsThin: a program is what it imports, called once.
func TestMainIsThin(t *testing.T) {
	for _, f := range packages(t)["."] {
		if f.lines > 40 {
			t.Errorf("%s has %d lines; wiring is in daemon/command, where tests reach it", f.path, f.lines)
		}
	}
}

// TestNothingIsLeftBehind: nothing is left to do without an owner's reason.
func TestNothingIsLeftBehind(t *testing.T) {
	marks := [][]byte{[]byte("TO" + "DO"), []byte("FIX" + "ME"), []byte("XX" + "X")}
	for _, files := range packages(t) {
		for _, f := range files {
			source, err := os.ReadFile(filepath.Join(root, f.path))
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range bytes.Split(source, []byte{'\n'}) {
				for _, mark := range marks {
					if bytes.Contains(line, mark) {
						t.Errorf("%s:%d: %s", f.path, i+1, bytes.TrimSpace(line))
					}
				}
			}
		}
	}
}
