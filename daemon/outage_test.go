package daemon_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"lockstep/daemon/control"
	"lockstep/daemon/etcd/etcdtest"
	"lockstep/daemon/pki"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/nodeagent/register"
)

// fewLines is how much an outage may write into the log: its beginning, its consequences, its end.
const fewLines = 4

// outage is how much longer than it takes to notice etcd stands still, and later is full. LOCKSTEP_TEST_OUTAGE=60s is
// longer than nodes may be silent.
var outage, _ = time.ParseDuration(os.Getenv("LOCKSTEP_TEST_OUTAGE"))

// agent is what a node's agent does all the time: it renews its lease.
type agent struct {
	t       *testing.T
	end     chan struct{}
	ended   chan struct{}
	unready atomic.Int64 // times that the node was seen not ready
}

func newAgent(t *testing.T, s *server, name string) *agent {
	t.Helper()
	a := &agent{t: t, end: make(chan struct{}), ended: make(chan struct{})}
	client := s.join(name)
	node := &corev1.Node{}
	node.Name = name
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	condition := `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test","message":"as a test"}]}}`
	if _, err := client.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, []byte(condition),
		metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := &coordinationv1.Lease{}
	lease.Name = name
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		for {
			select {
			case <-a.end:
				return
			case <-time.After(time.Second):
			}
			lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
			if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
				t.Errorf("a heartbeat was refused: %v", err)
			}
		}
	}()
	factory := informers.NewSharedInformerFactory(s.client(), 0)
	see := func(o any) {
		if c := kinds.NodeCondition(o.(*corev1.Node), corev1.NodeReady); c != nil && c.Status != corev1.ConditionTrue {
			a.unready.Add(1)
		}
	}
	if _, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, o any) { see(o) },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(a.end)
	t.Cleanup(func() { a.stop(); factory.Shutdown() })
	return a
}

// stop ends the agent. Everything before was to be fine.
func (a *agent) stop() {
	select {
	case <-a.end:
		return
	default:
	}
	close(a.end)
	<-a.ended
	if n := a.unready.Load(); n > 0 {
		a.t.Errorf("the node was shown as not ready %d times", n)
	}
}

// prices starts an informer and returns the value that it has of the ConfigMap prices, and whether it ever had one.
func prices(t *testing.T, s *server) (value func() string, had func(string) bool) {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(s.client(), 0, informers.WithNamespace("default"))
	informer := factory.Core().V1().ConfigMaps()
	lister := informer.Lister()
	var seen sync.Map
	see := func(o any) { seen.Store(o.(*corev1.ConfigMap).Data["tea"], true) }
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, o any) { see(o) },
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() { close(stop); factory.Shutdown() })
	value = func() string {
		c, err := lister.ConfigMaps("default").Get("prices")
		if err != nil {
			return err.Error()
		}
		return c.Data["tea"]
	}
	return value, func(v string) bool { _, ok := seen.Load(v); return ok }
}

// TestEtcdOutages takes an external etcd away in several ways from a daemon that keeps running, and whose source changes
// meanwhile.
func TestEtcdOutages(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.NewProcess(t, 16<<20)
	s := newServer(t, "a", external(etcd)...)
	s.args = append(s.args, "--source", "shop="+s.folder)
	s.push("1")

	s.start()
	s.until("the log says that etcd is waited for", func() (string, bool) {
		return s.log.String(), strings.Contains(s.log.String(), "etcd does not answer yet, waiting for it")
	})
	if code, _ := s.get("https://" + s.api + "/readyz"); code == http.StatusOK {
		t.Error("ready without etcd")
	}
	etcd.Start()
	s.untilReady()
	value, _ := prices(t, s)
	s.untilApplied(value, "1")
	client := s.client()
	agent := newAgent(t, s, "n1")

	t.Run("slow", func(t *testing.T) {
		mark := s.log.mark()
		stop := sync.OnceFunc(stutter(etcd))
		defer stop()
		for i := range 3 {
			s.push(fmt.Sprint("slow ", i))
			s.untilApplied(value, fmt.Sprint("slow ", i))
		}
		stop()
		s.push("1")
		s.untilApplied(value, "1")
		s.untilReady()
		if lines := s.log.since(mark); len(lines) > 0 {
			t.Errorf("a slow etcd is no reason for %q", lines)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		mark := s.log.mark()
		etcd.Stop()
		s.untilReadyz(http.StatusServiceUnavailable, "[-]etcd failed: etcd does not answer (for ")
		time.Sleep(outage)
		s.push("2")
		begun := time.Now()
		answer := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/default/configmaps").MaxRetries(0).Do(t.Context())
		told := answer.Warnings()
		if answer.Error() != nil || len(told) != 1 || !strings.Contains(told[0].Text, "may have changed since: etcd does not answer") ||
			time.Since(begun) > 2*time.Second {
			t.Errorf("a list by somebody who can judge it, after %v: %v %v", time.Since(begun), answer.Error(), told)
		}
		readsOf(t, s, client, "1", "etcd does not answer")
		etcd.Continue()
		s.untilReady()
		s.untilApplied(value, "2")
		few(t, s, mark)
	})
	t.Run("killed", func(t *testing.T) {
		mark := s.log.mark()
		etcd.Kill()
		s.untilReadyz(http.StatusServiceUnavailable, "[-]etcd failed: etcd does not answer (for ")
		s.push("3")
		readsOf(t, s, client, "2", "etcd does not answer")
		etcd.Start()
		s.untilReady()
		s.untilApplied(value, "3")
		few(t, s, mark)
	})
	t.Run("full", func(t *testing.T) {
		mark := s.log.mark()
		other := etcd.Connect(t.Context())
		fill(t, other)
		s.push("4")
		s.untilReadyz(http.StatusServiceUnavailable, "[-]etcd failed: etcd is full (NOSPACE)")
		time.Sleep(outage)
		readsOf(t, s, client, "3", "etcd is full")
		if list, err := client.CoreV1().ConfigMaps("default").List(t.Context(),
			metav1.ListOptions{FieldSelector: "metadata.name=prices"}); err != nil || len(list.Items) != 1 {
			t.Errorf("a list while etcd is full: %v", err)
		}
		if _, err := other.Delete(t.Context(), "/other/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		s.untilReady()
		s.untilApplied(value, "4")
		few(t, s, mark)
		// What was deleted keeps its room until it is compacted: where the alarm was lifted before that, it comes back.
		s.until("etcd takes everybody's writes", func() (string, bool) {
			_, err := other.Put(t.Context(), "/other/key", "value")
			return fmt.Sprint(err), err == nil
		})
	})
	t.Run("compacted while the daemon is away", func(t *testing.T) {
		agent.stop()
		s.stop()
		other := etcd.Connect(t.Context())
		put, err := other.Put(t.Context(), "/other/key", "value")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Compact(t.Context(), put.Header.Revision); err != nil {
			t.Fatal(err)
		}
		s.push("5")
		s.start()
		s.untilReady()
		s.untilApplied(value, "5")
	})
	plan, err := s.door().Plan(t.Context(), v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	if err != nil || plan.Changes {
		t.Errorf("a plan of what is applied: %+v, %v", plan, err)
	}
	report, err := s.door().Report(t.Context())
	if err != nil || report.Ready != "" || len(report.Sources) != 1 || report.Sources[0].Objects[0].File != "shop.yaml:1" {
		t.Errorf("the report is %+v, %v", report, err)
	}
}

// stutter makes etcd slow: it works a tenth of the time.
func stutter(etcd *etcdtest.Process) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			etcd.Stop()
			time.Sleep(180 * time.Millisecond)
			etcd.Continue()
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-ended }
}

// readsOf reads what may be as old as the view, which has a value of prices, while etcd has a problem.
func readsOf(t *testing.T, s *server, client kubernetes.Interface, want, problem string) {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{
		ResourceVersion: "0",
		FieldSelector:   "metadata.name=prices",
	})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["tea"] != want {
		t.Errorf("a list of any age: %v, %v", list.Items, err)
	}
	code, body := s.get("http://" + s.status + "/")
	if code != http.StatusOK || !strings.Contains(body, problem) || !strings.Contains(body, "shop") {
		t.Errorf("the status page answers %d and does not say %q: %s", code, problem, body)
	}
	if report, err := s.door().Report(t.Context()); err != nil || !strings.Contains(report.Ready, problem) || len(report.Sources) != 1 {
		t.Errorf("the report is %+v, %v", report, err)
	}
}

// few wants little in the log since a mark.
func few(t *testing.T, s *server, mark int) {
	t.Helper()
	lines := s.log.since(mark)
	t.Logf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	if len(lines) == 0 || len(lines) > fewLines {
		t.Errorf("the outage wrote %d lines into the log, want 1 to %d", len(lines), fewLines)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("a line is not the log's: %s", line)
		}
	}
}

// fill fills etcd with live data until it takes no more.
func fill(t *testing.T, client *clientv3.Client) {
	t.Helper()
	block := strings.Repeat("x", 1<<20)
	for i := range 100 {
		_, err := client.Put(t.Context(), fmt.Sprintf("/other/%03d", i), block)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("etcd takes 100 MiB")
}

// join makes a node and returns a client with its certificate.
func (s *server) join(name string) *kubernetes.Clientset {
	s.t.Helper()
	token, err := s.door().Token(s.t.Context(), control.TokenOptions{TTL: time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	identity := register.Identity{Server: "https://" + s.api, Node: name, Dir: s.t.TempDir()}
	if err := identity.Join(s.t.Context(), token); err != nil {
		s.t.Fatal(err)
	}
	conf, err := identity.TLS()
	if err != nil {
		s.t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: identity.Server, QPS: 200, Burst: 400, // not an agent's link, which waits for a server that is away
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// TestKilledWhileWriting kills a daemon with its embedded etcd while nodes write: what was answered is there afterwards.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	s := newServer(t, "a")
	s.start()
	s.untilReady()
	node := s.join("n1")
	var mu sync.Mutex
	answered := map[string]bool{}
	for round := range 3 {
		var enough atomic.Int64
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for i := 0; ; i++ {
					e := &corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "n1"}, Reason: "Test", Type: "Normal"}
					e.Namespace, e.Name = "default", fmt.Sprintf("n1.%d-%d-%d", round, w, i)
					if _, err := node.CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
						return // the daemon is dead; every other cause shows in the count below
					}
					mu.Lock()
					answered[e.Name] = true
					mu.Unlock()
					enough.Add(1)
				}
			})
		}
		s.until("writes are answered", func() (string, bool) { return fmt.Sprint(enough.Load()), enough.Load() >= 100 })
		s.kill()
		writers.Wait()
		s.start()
		s.untilReady()
	}
	list, err := node.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		// A node may not list events: the viewer may.
		list, err = s.client().CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, e := range list.Items {
		have[e.Name] = true
	}
	for name := range answered {
		if !have[name] {
			t.Errorf("event %s was answered and is lost", name)
		}
	}
	t.Logf("%d writes were answered", len(answered))
}

// TestTwoServers has two daemons on one etcd: one leads. The other takes over where the leader is killed, and where it
// stands still, and is then deposed.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.NewProcess(t, 0)
	etcd.Start()
	servers := map[string]*server{}
	keys := pki.Dir(t.TempDir())
	if _, err := pki.OpenSealingKeys(keys, time.Now(), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		s := newServer(t, name, external(etcd)...)
		if err := os.CopyFS(filepath.Join(s.dir, "data", "pki"), os.DirFS(string(keys))); err != nil {
			t.Fatal(err)
		}
		s.args = append(s.args, "--source", "shop="+s.folder)
		s.push(name)
		servers[name] = s
		s.start()
	}
	leading := func(s *server) bool { return s.metric("lockstep_store_leading") == "1" }
	for _, s := range servers {
		s.untilReady()
	}
	find := func() (leader, other *server) {
		t.Helper()
		servers["a"].until("one leads", func() (string, bool) {
			a, b := leading(servers["a"]), leading(servers["b"])
			if a && b {
				t.Fatal("both lead")
			}
			leader, other = servers["a"], servers["b"]
			if b {
				leader, other = other, leader
			}
			return "none leads", a || b
		})
		return leader, other
	}
	leader, other := find()
	names := []string{"a", "b"}
	nameOf := func(s *server) string {
		return names[slices.IndexFunc(names, func(n string) bool { return servers[n] == s })]
	}
	value, had := prices(t, other)
	other.untilApplied(value, nameOf(leader))

	// The leader stands still for longer than its lease lasts, and wakes up with a change to write.
	leader.signal(syscall.SIGSTOP)
	other.until("the other leads", func() (string, bool) { return "it does not", leading(other) })
	other.untilApplied(value, nameOf(other))
	leader.push("deposed")
	leader.signal(syscall.SIGCONT)
	leader.until("the deposed one knows", func() (string, bool) { return "it leads", !leading(leader) })
	leader, other = other, leader
	other.untilReady()
	leader.push("after")
	leader.untilApplied(value, "after")

	leader.kill()
	if had("deposed") {
		t.Error("the deposed leader has written")
	}
	value, _ = prices(t, other)
	other.untilApplied(value, "deposed") // what its folder has
	if !leading(other) {
		t.Error("it applies its source and does not lead")
	}
}
