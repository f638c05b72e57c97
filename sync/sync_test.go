package sync

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
	"lockstep/internal/locked"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
	"lockstep/lab/githost"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/forge/forgetest"
	"lockstep/sync/found"
	"lockstep/sync/plan"
	"lockstep/sync/source"
)

// patience bounds what is waited for; a machine under load needs seconds where an idle one needs milliseconds.
const patience = 30 * time.Second

const cart = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      containers:
      - {name: cart, image: "cart:1"}
`

const settings = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {color: blue}
`

func newStore(intercept func(store.Group) error) *memory.Store {
	return memory.NewWith(memory.Options{Default: strategy.Default, Intercept: intercept})
}

// TestMain fails where a goroutine is left; kept-alive connections of go-git's shared HTTP client are not ours.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// world is a store, a repository served over HTTP, a forge, and a Sync that follows the repository.
type world struct {
	t     *testing.T
	store *memory.Store
	host  *githost.Server
	url   string
	work  string // a working copy
	forge *forgetest.Server
	spec  v1alpha1.Source
	logs  *locked.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: newStore(nil), work: t.TempDir(), forge: forgetest.New(), logs: &locked.Buffer{}}
	w.host = githost.New(t.TempDir(), githost.Options{Token: "git-token"})
	if _, err := w.host.Create(t.Context(), "team/shop"); err != nil {
		t.Fatal(err)
	}
	git := httptest.NewServer(w.host.Handler())
	t.Cleanup(git.Close)
	w.forge.Token = "forge-token"
	api := httptest.NewServer(w.forge)
	t.Cleanup(api.Close)
	w.url = git.URL + "/team/shop.git"
	w.spec = v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.SourceSpec{
		URL: w.url, Branch: "main", Interval: metav1.Duration{Duration: time.Hour},
		Credentials: &v1alpha1.Credentials{TokenFile: w.file("git-token")},
		Forge: &v1alpha1.Forge{Type: "gitea", URL: api.URL, Repository: "team/shop", TokenFile: w.file("forge-token"),
			WebhookSecretFile: w.file("hook-secret")},
	}}
	w.git("init", "-q", "-b", "main")
	w.git("config", "user.name", "Ada")
	w.git("config", "user.email", "ada@example.com")
	return w
}

func (w *world) file(content string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.work
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// push commits the files ("" removes one) and pushes them; it returns the commit.
func (w *world) push(message string, files map[string]string, flags ...string) string {
	w.t.Helper()
	for name, content := range files {
		path := filepath.Join(w.work, name)
		if content == "" {
			if err := os.Remove(path); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	w.git("add", "-A")
	w.git("commit", "-q", "--allow-empty", "-m", message)
	w.git(append([]string{"push", "-q", w.host.Dir("team/shop"), "main"}, flags...)...)
	return w.git("rev-parse", "HEAD")
}

// start runs a Sync until the test or stop ends it.
func (w *world) start(change ...func(*Options)) (s *Sync, stop func()) {
	w.t.Helper()
	opts := Options{
		Sources:   []v1alpha1.Source{w.spec},
		Store:     w.store,
		Commit:    w.store,
		Events:    w.store,
		DataDir:   filepath.Join(w.t.TempDir(), "data"),
		Cluster:   "test",
		StatusURL: func(source, revision string) string { return "https://status/" + source + "/" + revision },
		Log:       slog.New(slog.NewTextHandler(w.logs, nil)),
	}
	for _, f := range change {
		f(&opts)
	}
	s, err := New(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = gosync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return s, stop
}

// poke asks for a look at every place, as a webhook does.
func (s *Sync) poke() {
	for _, w := range s.watchers() {
		w.Poke()
	}
}

func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s\n%+v", w.logs, w.status())
		}
	}()
	eventually.True(w.t, patience, what, f)
}

func (w *world) status() v1alpha1.SourceStatus {
	if s, ok := view.Get[*v1alpha1.Source](w.store.View(), "", "shop"); ok {
		return s.Status
	}
	return v1alpha1.SourceStatus{}
}

func (w *world) deployment() *appsv1.Deployment {
	d, _ := view.Get[*appsv1.Deployment](w.store.View(), "shop", "cart")
	return d
}

// texts are the statuses a commit has received in the verdict's context.
func (w *world) texts(commit, context string) []string {
	var out []string
	for _, s := range w.forge.Statuses("team/shop", commit) {
		if s.Context == context {
			out = append(out, s.State+": "+s.Description)
		}
	}
	return out
}

const judged = "lockstep/test/shop"

func (w *world) receives(commit, text string) {
	w.t.Helper()
	w.until("status "+text, func() bool {
		list := w.texts(commit, judged)
		return len(list) > 0 && strings.HasPrefix(list[len(list)-1], text)
	})
}

// rollOut plays the reconcilers and nodes: the deployment becomes what it asks for.
func (w *world) rollOut() {
	w.t.Helper()
	w.until("deployment rolled out", func() bool {
		d := w.deployment()
		if d == nil {
			return false
		}
		d = d.DeepCopy()
		n := *d.Spec.Replicas
		d.Status = appsv1.DeploymentStatus{
			ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
		}
		return w.put(d) == nil
	})
}

// put writes an object as somebody else would, past sync.
func (w *world) put(o kinds.Object) error {
	return w.store.Commit(w.t.Context(), store.Group{{Key: kinds.KeyOf(o), Object: o, If: store.Anyway}})[0].Err
}

func TestPushBecomesVerdict(t *testing.T) {
	w := newWorld(t)
	first := w.push("first", map[string]string{"cart.yaml": cart, "settings.yaml": settings})
	s, _ := w.start()

	w.receives(first, "pending: rolling out 2 of 3")
	if d := w.deployment(); d == nil || d.Spec.Template.Spec.Containers[0].Image != "cart:1" || d.Generation != 1 {
		t.Fatalf("stored deployment: %+v", d)
	}
	w.rollOut()
	w.receives(first, "success: 3 objects in sync and healthy")
	last := w.forge.Statuses("team/shop", first)
	if got := last[len(last)-1].TargetURL; got != "https://status/shop/"+first {
		t.Errorf("target URL %q", got)
	}

	t.Run("an unchanged field keeps its owner", func(t *testing.T) {
		d := w.deployment().DeepCopy()
		d.Labels = map[string]string{"somebody": "else"}
		if err := w.put(d); err != nil {
			t.Fatal(err)
		}
		sha := w.push("image", map[string]string{"cart.yaml": strings.Replace(cart, "cart:1", "cart:2", 1)})
		s.poke()
		w.receives(sha, "pending: rolling out 2 of 3")
		if d := w.deployment(); d.Spec.Template.Spec.Containers[0].Image != "cart:2" || d.Labels["somebody"] != "else" {
			t.Fatalf("stored deployment: %v %v", d.Labels, d.Spec.Template.Spec.Containers)
		}
		w.rollOut()
		w.receives(sha, "success")
	})
	t.Run("a broken field refuses the whole revision", func(t *testing.T) {
		before := w.deployment().ResourceVersion
		sha := w.push("typo", map[string]string{
			"cart.yaml":     strings.Replace(cart, "replicas: 2", "replcias: 5", 1),
			"settings.yaml": strings.Replace(settings, "blue", "red", 1)})
		s.poke()
		w.receives(sha, "error: cart.yaml:9")
		if got := w.deployment().ResourceVersion; got != before {
			t.Errorf("the deployment was written: %s, was %s", got, before)
		}
		if c, _ := view.Get[*corev1.ConfigMap](w.store.View(), "shop", "settings"); c.Data["color"] != "blue" {
			t.Errorf("half of a refused revision was applied")
		}
	})
	t.Run("an immutable field names the place and the remedy", func(t *testing.T) {
		changed := strings.ReplaceAll(cart, "app: cart", "app: basket")
		sha := w.push("selector", map[string]string{"cart.yaml": changed, "settings.yaml": settings})
		s.poke()
		w.receives(sha, "error: cart.yaml:10")
		if got := w.status(); len(got.Errors) != 1 || !strings.Contains(got.Errors[0], "immutable") ||
			!strings.Contains(got.Errors[0], "rename it") {
			t.Errorf("errors %q", got.Errors)
		}
	})
	t.Run("a moved file changes nothing", func(t *testing.T) {
		fixed := strings.Replace(cart, "cart:1", "cart:2", 1)
		w.push("back", map[string]string{"cart.yaml": fixed})
		s.poke()
		w.until("accepted", func() bool { return w.status().State == "success" })
		before := w.deployment()
		sha := w.push("move", map[string]string{"cart.yaml": "", "deploy/cart.yaml": fixed})
		s.poke()
		w.receives(sha, "success")
		if got := w.deployment(); got.ResourceVersion != before.ResourceVersion {
			t.Errorf("the deployment was written")
		}
		r, _ := w.store.View().Record("desired", "shop/"+kinds.KeyOf(before).Path())
		if !strings.Contains(string(r.Data), `"file":"deploy/cart.yaml"`) || strings.Contains(string(r.Data), sha) {
			t.Errorf("provenance %s", r.Data)
		}
	})
	t.Run("a failure names its cause", func(t *testing.T) {
		sha := w.push("bad image", map[string]string{"deploy/cart.yaml": strings.Replace(cart, "cart:1", "cart:bad", 1)})
		s.poke()
		w.receives(sha, "pending")
		w.crash("ImagePullBackOff")
		w.receives(sha, "failure: Deployment shop/cart: ImagePullBackOff, 0/2 ready")
		w.rollOut()
		w.receives(sha, "success")
	})
	t.Run("drift is repaired", func(t *testing.T) {
		d := w.deployment().DeepCopy()
		d.Spec.Template.Spec.Containers[0].Image = "cart:hacked"
		if err := w.put(d); err != nil {
			t.Fatal(err)
		}
		w.until("repaired", func() bool { return w.deployment().Spec.Template.Spec.Containers[0].Image == "cart:bad" })
		sha := w.git("rev-parse", "HEAD")
		w.until("reported", func() bool {
			list := w.texts(sha, judged+"/drift")
			return len(list) > 0 && strings.Contains(list[0], "spec.template.spec.containers[cart].image")
		})
		w.until("recorded", func() bool {
			all, _ := found.In(w.store.View(), found.Filter{})
			return len(all) == 1 && all[0].Object == "Deployment shop/cart" && all[0].Commit == sha && !all[0].Repaired.IsZero() &&
				all[0].Source == "shop" && strings.HasPrefix(all[0].File, "deploy/cart.yaml:")
		})
		w.rollOut()
	})
	t.Run("an object deleted by hand comes back", func(t *testing.T) {
		key := kinds.For[*corev1.ConfigMap]().Key("shop", "settings")
		if r := w.store.Commit(t.Context(), store.Group{{Key: key, If: store.Anyway}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
		w.until("back", func() bool { return w.store.View().Get(key) != nil })
	})
	t.Run("an emptied repository is held until allowed", func(t *testing.T) {
		sha := w.push("empty", map[string]string{"deploy/cart.yaml": "", "settings.yaml": "", "README": "nothing"})
		s.poke()
		w.receives(sha, "error: held: no manifests, would delete all 3 objects")
		if w.deployment() == nil {
			t.Fatal("held, and deleted")
		}
		w.push("really\n\nLockstep-Prune: allow", nil)
		s.poke()
		w.until("pruned", func() bool { return w.deployment() == nil })
	})
	t.Run("a force-push is just the new commit", func(t *testing.T) {
		w.git("reset", "-q", "--hard", first)
		sha := w.push("forced", map[string]string{"settings.yaml": strings.Replace(settings, "blue", "green", 1)}, "--force")
		s.poke()
		w.until("namespace gone and back", func() bool {
			w.finishNamespace()
			return w.deployment() != nil
		})
		w.rollOut()
		w.receives(sha, "success")
	})
}

// finishNamespace plays the namespace's cascade.
func (w *world) finishNamespace() {
	ns, ok := view.Get[*corev1.Namespace](w.store.View(), "", "shop")
	if ok && ns.DeletionTimestamp != nil {
		w.store.Commit(w.t.Context(), store.Group{{Key: kinds.KeyOf(ns), If: store.Anyway}})
	}
}

// crash gives the deployment a replica set with two pods that wait for a reason.
func (w *world) crash(reason string, change ...func(*corev1.Pod)) {
	w.t.Helper()
	d := w.deployment().DeepCopy()
	yes := true
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "cart-1", Namespace: "shop", UID: "rs-1",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID, Controller: &yes}}}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cart-1-a", Namespace: "shop", Labels: map[string]string{"app": "cart"},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart-1", UID: "rs-1", Controller: &yes,
		}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}},
	}}
	for _, f := range change {
		f(p)
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 2, UpdatedReplicas: 2}
	for _, o := range []kinds.Object{rs, p, d} {
		if err := w.put(o); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestANewerRevisionEndsTheWaiting(t *testing.T) {
	w := newWorld(t)
	first := w.push("first", map[string]string{"cart.yaml": cart})
	s, _ := w.start()
	w.receives(first, "pending: rolling out 1 of 2")
	second := w.push("second", map[string]string{"cart.yaml": strings.Replace(cart, "cart:1", "cart:2", 1)})
	s.poke()
	w.receives(first, "error: superseded by "+second[:12])
	w.receives(second, "pending: rolling out 1 of 2")
	w.rollOut()
	w.receives(second, "success: 2 objects in sync and healthy")
	time.Sleep(50 * time.Millisecond)
	if got := w.texts(first, judged); len(got) != 2 {
		t.Errorf("the older revision received %q", got)
	}
}

// TestAllocatedValueRefusesTheWholeRevision: what only the cluster knows is found before anything is applied, at its place.
func TestAllocatedValueRefusesTheWholeRevision(t *testing.T) {
	w := newWorld(t)
	taken := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "till", Namespace: "default"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}}
	key := kinds.KeyOf(taken)
	if r := w.store.Commit(t.Context(), store.Group{{Key: key, Object: taken}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	const service = `apiVersion: v1
kind: Service
metadata: {name: cart, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.99.0.1
  ports:
  - {port: 80, nodePort: 30080}
`
	files := map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default"), "service.yaml": service}
	sha := w.push("taken", files)
	s, _ := w.start(func(o *Options) {
		o.Services = plan.Networks{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}}
	})
	w.receives(sha, "error: service.yaml:6:3: Service default/cart: spec.clusterIP: failed to allocate IP 10.99.0.1: "+
		"the provided IP (10.99.0.1)")
	got := w.status().Errors
	if len(got) != 2 || got[1] != "service.yaml:8:16: Service default/cart: spec.ports[0].nodePort: "+
		"provided port is already allocated to Service default/till" {
		t.Errorf("errors %q", got)
	}
	if _, err := s.Plan(t.Context(), "shop"); err == nil || err.Error() != strings.Join(w.status().Errors, "\n") {
		t.Errorf("planned: %v", err)
	}
	if c, ok := view.Get[*corev1.ConfigMap](w.store.View(), "default", "settings"); ok {
		t.Errorf("half of a refused revision was applied: %v", c)
	}
	files["service.yaml"] = strings.NewReplacer("10.99", "10.43", "30080", "30081").Replace(service)
	sha = w.push("free", files)
	s.poke()
	w.receives(sha, "success: 2 objects")
}

func TestLeadingAgainFinishesWithoutGit(t *testing.T) {
	w := newWorld(t)
	sha := w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	_, stop := w.start()
	w.receives(sha, "success")
	stop()
	key := kinds.For[*corev1.ConfigMap]().Key("default", "settings")
	if r := w.store.Commit(t.Context(), store.Group{{Key: key, If: store.Anyway}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	w.spec.Spec.URL = "http://127.0.0.1:1/team/shop.git"
	w.start()
	w.until("repaired from the inventory alone", func() bool { return w.store.View().Get(key) != nil })
	w.until("the fetch error is told", func() bool {
		return strings.Contains(w.status().FetchError, "refused") && w.status().Accepted == sha
	})
}

func TestFolderThatLosesObjectsIsReadTwice(t *testing.T) {
	w := newWorld(t)
	w.spec.Spec = v1alpha1.SourceSpec{Folder: w.work}
	path := filepath.Join(w.work, "all.yaml")
	one := strings.ReplaceAll(settings, "shop", "default")
	both := one + "---\n" + strings.Replace(one, "settings", "more", 1)
	if err := os.WriteFile(path, []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	var clock atomic.Int64 // stands still unless moved
	w.start(func(o *Options) { o.Now = func() time.Time { return time.Unix(1_900_000_000, clock.Load()) } })
	w.until("both", func() bool { return w.status().Objects == 2 && w.status().State == "success" })
	// A slow writer: for longer than the debounce the file ends after the first object, and is valid.
	if err := os.WriteFile(path, []byte(one), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(both, "blue", "red")), 0o644); err != nil {
		t.Fatal(err)
	}
	key := kinds.For[*corev1.ConfigMap]().Key("default", "more")
	uid := w.store.View().Get(key).GetUID()
	w.until("red", func() bool {
		c, _ := w.store.View().Get(key).(*corev1.ConfigMap)
		return c != nil && c.Data["color"] == "red"
	})
	if got := w.store.View().Get(key).GetUID(); got != uid {
		t.Error("the object was deleted meanwhile")
	}
	if err := os.WriteFile(path, []byte(one), 0o644); err != nil {
		t.Fatal(err)
	}
	w.until("pruned", func() bool {
		clock.Add(int64(source.Settle))
		return w.store.View().Get(key) == nil
	})
}

func TestForgeOutageLosesNothing(t *testing.T) {
	w := newWorld(t)
	w.forge.Outage(forgetest.Fault{Code: http.StatusServiceUnavailable})
	sha := w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	dir := t.TempDir()
	_, stop := w.start(func(o *Options) { o.DataDir = dir })
	w.until("decided", func() bool { return w.status().State == "success" })
	w.until("tried", func() bool { return w.forge.Requests() > 0 })
	stop()
	if got := w.texts(sha, judged); len(got) != 0 {
		t.Fatalf("posted during the outage: %v", got)
	}
	w.forge.Heal()
	w.start(func(o *Options) { o.DataDir = dir })
	w.receives(sha, "success: 1 object in sync and healthy")
}

func TestLostAnswerIsNotPostedTwice(t *testing.T) {
	w := newWorld(t)
	w.forge.Fail(forgetest.Fault{Served: true}) // carried out, and the connection cut
	sha := w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	w.start()
	w.until("posted", func() bool {
		_, waiting := w.store.View().Record("outbox", "shop/"+sha+"/verdict")
		_, posted := w.store.View().Record("posted", "shop/"+sha+"/verdict")
		return posted && !waiting
	})
	if got := w.texts(sha, judged); len(got) != 1 {
		t.Errorf("statuses %q, want one", got)
	}
}

func TestSourcesDoNotTakeEachOthersObjects(t *testing.T) {
	w := newWorld(t)
	w.push("first", map[string]string{"a/settings.yaml": strings.ReplaceAll(settings, "shop", "default"),
		"b/settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	a, b := *w.spec.DeepCopy(), *w.spec.DeepCopy()
	a.Spec.Path, b.Spec.Path, b.Name = "a", "b", "other"
	a.Spec.Forge, b.Spec.Forge = nil, nil
	w.start(func(o *Options) { o.Sources = []v1alpha1.Source{a, b} })
	other := func() v1alpha1.SourceStatus {
		if s, ok := view.Get[*v1alpha1.Source](w.store.View(), "", "other"); ok {
			return s.Status
		}
		return v1alpha1.SourceStatus{}
	}
	w.until("one has it, the other is refused", func() bool { return w.status().State != "" && other().State != "" })
	texts := w.status().Message + "|" + other().Message
	if !strings.Contains(texts, "belongs to source") || !strings.Contains(texts, "1 object in sync") {
		t.Errorf("messages %q", texts)
	}
	if got := w.host.Requests("fetch"); got != 1 {
		t.Errorf("%d fetches for two sources of a repository, want 1", got)
	}
}

func TestNothingIsFetchedWhenNothingMoved(t *testing.T) {
	w := newWorld(t)
	w.spec.Spec.Interval.Duration = 10 * time.Millisecond
	w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	w.start()
	w.until("listed often", func() bool { return w.host.Requests("list") > 10 })
	if got := w.host.Requests("fetch"); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
}

func TestSSH(t *testing.T) {
	w := newWorld(t)
	w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	host, _, err := githost.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	client, private, err := githost.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.host.ServeSSH(ctx, l, githost.SSH{HostKey: host, Authorized: []ssh.PublicKey{client.PublicKey()}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.spec.Spec.URL = "ssh://git@" + l.Addr().String() + "/team/shop.git"
	w.spec.Spec.Forge = nil
	w.spec.Spec.Credentials = &v1alpha1.Credentials{
		SSHKeyFile:     w.file(string(private)),
		KnownHostsFile: w.file(githost.KnownHosts(l.Addr().String(), host.PublicKey())),
	}
	_, stop := w.start()
	w.until("success", func() bool { return w.status().State == "success" })
	stop()

	w.store = newStore(nil)
	w.spec.Spec.Credentials.KnownHostsFile = w.file(githost.KnownHosts(l.Addr().String(), client.PublicKey()))
	w.start()
	w.until("another host key is refused", func() bool { return strings.Contains(w.status().FetchError, "cannot read ssh://") })
	if w.status().State != "" {
		t.Errorf("status %+v", w.status())
	}
}

// TestKilledAtEveryWrite fails all writes from the nth on, then lets another leader finish; the end is always the same.
// (Package apply does it for every n.)
func TestKilledAtEveryWrite(t *testing.T) {
	w := newWorld(t)
	w.spec.Spec.Forge = nil
	w.spec.Spec.URL, w.spec.Spec.Branch, w.spec.Spec.Credentials, w.spec.Spec.Folder = "", "", nil, w.work
	write := func(files map[string]string) {
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(w.work, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var many strings.Builder
	for i := range 130 {
		named := strings.Replace(settings, "settings", "s"+string(rune('a'+i/26))+string(rune('a'+i%26)), 1)
		many.WriteString("---\n" + strings.ReplaceAll(named, "shop", "default"))
	}
	second := strings.Replace(strings.ReplaceAll(many.String(), "blue", "red"), "color: red", "shade: dark", 1)
	reference := ""
	for n := 1; ; n += 1 + n/2 {
		writes, killed := 0, false
		limit := 0 // no limit
		var mu gosync.Mutex
		w.store = newStore(func(store.Group) error {
			mu.Lock()
			defer mu.Unlock()
			writes++
			if limit > 0 && writes > limit {
				killed = true
				return store.ErrUnavailable
			}
			return nil
		})
		write(map[string]string{"many.yaml": many.String()})
		_, stop := w.start()
		w.until("first applied", func() bool { return w.status().State == "success" })
		stop()
		mu.Lock()
		writes, limit = 0, n
		mu.Unlock()
		write(map[string]string{"many.yaml": second})
		_, stop = w.start()
		w.until("second applied or killed", func() bool {
			mu.Lock()
			defer mu.Unlock()
			c, _ := view.Get[*corev1.ConfigMap](w.store.View(), "default", "sez")
			state, err := apply.Load(w.store.View(), "shop")
			return killed || err == nil && c.Data["color"] == "red" && !state.Staged && state.Healthy == state.Accepted &&
				w.status().Seen == state.Healthy
		})
		stop()
		mu.Lock()
		limit = 0
		finished := !killed
		mu.Unlock()
		_, stop = w.start()
		w.until("finished", func() bool {
			c, _ := view.Get[*corev1.ConfigMap](w.store.View(), "default", "sez")
			state, err := apply.Load(w.store.View(), "shop")
			return err == nil && c != nil && c.Data["color"] == "red" && !state.Staged && state.Healthy == state.Accepted &&
				w.status().Seen == state.Healthy
		})
		stop()
		if got := w.end(); reference == "" {
			reference = got
		} else if got != reference {
			t.Fatalf("killed after %d writes the end differs:\n%s", n, cmp.Diff(reference, got))
		}
		if finished {
			break
		}
	}
	if strings.Contains(reference, "pending") || strings.Contains(reference, "staged") {
		t.Errorf("left over:\n%s", reference)
	}
}

// end is everything in the store but what time and luck decide.
func (w *world) end() string {
	var b strings.Builder
	v := w.store.View()
	for c := range view.List[*corev1.ConfigMap](v, "") {
		b.WriteString(c.Name)
		for k, value := range c.Data {
			b.WriteString(" " + k + "=" + value)
		}
		b.WriteString("\n")
	}
	for _, table := range []string{"desired", "staged", "source"} {
		for r := range v.Records(table, "") {
			b.WriteString(table + " " + r.Name + " " + string(r.Data) + "\n")
		}
	}
	return b.String()
}

// TestNoSecretAnywhere greps everything that leaves sync for a value that stands in a Secret.
func TestNoSecretAnywhere(t *testing.T) {
	const canary = "canary-7d1f"
	w := newWorld(t)
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: default}\nstringData: {password: " + canary + "}\n"
	sha := w.push("first", map[string]string{"secret.yaml": secret})
	s, _ := w.start()
	w.receives(sha, "success")
	o, _ := view.Get[*corev1.Secret](w.store.View(), "default", "db")
	o = o.DeepCopy()
	o.Data["password"] = []byte("x")
	if err := w.put(o); err != nil {
		t.Fatal(err)
	}
	w.until("repaired", func() bool {
		o, _ := view.Get[*corev1.Secret](w.store.View(), "default", "db")
		return string(o.Data["password"]) == canary
	})
	sha = w.push("second", map[string]string{"secret.yaml": strings.Replace(secret, canary, canary+"2", 1)})
	p, err := s.Plan(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var diff strings.Builder
	if changes, err := p.WriteDiff(&diff); err != nil || !changes {
		t.Fatal(changes, err)
	}
	broken := w.push("third", map[string]string{
		"secret.yaml": strings.Replace(secret, "password: ", "password: [", 1) + "\ntype: " + canary,
	})
	s.poke()
	w.receives(broken, "error")
	out := diff.String() + w.logs.String()
	for _, commit := range []string{sha, broken} {
		for _, st := range w.forge.Statuses("team/shop", commit) {
			out += st.Description
		}
	}
	out += strings.Join(w.status().Errors, "\n") + w.status().Message
	for e := range view.List[*corev1.Event](w.store.View(), "") {
		out += e.Message
	}
	for _, leak := range []string{canary, "Y2FuYXJ5", "forge-token", "git-token", "hook-secret"} {
		if strings.Contains(out, leak) {
			t.Errorf("%q is in the output:\n%s", leak, out)
		}
	}
	if !strings.Contains(diff.String(), "data.password: (secret) → (secret)") {
		t.Errorf("diff:\n%s", diff.String())
	}
}
