package nodeagent

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/daemon/pki"
	"lockstep/kinds/strategy"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/runtime"
	"lockstep/store/memory"
)

// lose has the API come back at its address with an empty store.
func (l *lab) lose(history string) {
	l.t.Helper()
	l.stopAPI()
	l.store = memory.NewWith(memory.Options{Default: strategy.Default})
	for _, name := range []string{"default", "kube-node-lease"} {
		l.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uuid.NewUUID()}})
	}
	l.api.Store, l.api.History = l.store, history
	l.serve(l.address)
}

// TestFollowsAnotherHistory has the API lose its store under an agent that follows it: the agent has the new one's objects
// at once, though its revisions are lower, and takes no pod of before for deleted.
func TestFollowsAnotherHistory(t *testing.T) {
	dir := t.TempDir()
	l := &lab{t: t, dir: dir}
	l.startAPI(pki.Options{})
	t.Cleanup(func() { l.stopAPI() })
	l.stopAPI()
	l.api.History = "first"
	l.serve(l.address)
	for i := range 50 {
		l.put(configMap(fmt.Sprint("filler-", i), nil))
	}
	opts := Options{
		NodeName: "n1", Server: "https://" + l.address, Token: l.token(), DataDir: filepath.Join(dir, "data"),
		RunDir: filepath.Join(dir, "run"),
		LogDir: filepath.Join(dir, "log"), NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP)},
		Metrics: prometheus.NewRegistry(),
	}
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(a.opts.agentDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if a.rt, err = runtime.Open(runtime.Options{Address: filepath.Join(dir, "nobody.sock"), Node: "n1", RunDir: opts.RunDir,
		Log: a.log}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.group, a.ctx = errgroup.WithContext(ctx)
	t.Cleanup(func() {
		cancel()
		_ = a.group.Wait()
		_ = a.rt.Close()
		endNetwork(t, a.opts)
	})
	id := register.Identity{Server: a.opts.Server, Node: a.opts.NodeName, Dir: a.opts.agentDir()}
	if err := a.join(ctx, id); err != nil {
		t.Fatal(err)
	}
	link, err := id.Link()
	if err != nil {
		t.Fatal(err)
	}
	link.Heard = a.heard
	api, err := client.New(link.Config())
	if err != nil {
		t.Fatal(err)
	}
	a.host = a.newHost()
	objectOf := func(uid, name string, ready bool) *corev1.Pod {
		o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)}}
		if ready {
			o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return o
	}
	podOf := func(uid, name string, ready bool) *pod.Pod {
		p := a.host.New(objectOf(uid, name, ready))
		a.mu.Lock()
		a.pods[p.UID()] = p
		a.mu.Unlock()
		return p
	}
	gone := func(p *pod.Pod) bool { return p.Wanted().Gone }
	never := podOf("never", "never", true) // the API does not have it
	a.group.Go(func() error { return a.cluster.Follow(a.ctx, api) })
	a.group.Go(func() error { return a.offer(a.ctx, link) })
	l.eventually("what the API does not have ends", 20*time.Second, func() error {
		if !gone(never) {
			return fmt.Errorf("it goes on")
		}
		return nil
	})
	old, other := podOf("old", "web", true), podOf("other", "other", true)

	l.lose("second")
	l.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh", UID: uuid.NewUUID()}})
	began := time.Now()
	l.eventually("the new store's objects are known, and no others", 20*time.Second, func() error {
		for _, n := range a.cluster.Snapshot().Namespaces {
			if n.Name == "fresh" {
				return nil
			}
		}
		return fmt.Errorf("namespaces %v", a.cluster.Snapshot().Namespaces)
	})
	t.Logf("the agent follows the new store after %v", time.Since(began))
	if gone(old) || gone(other) || !a.isLost("old") || !a.isLost("other") {
		t.Error("a pod of before ends because a new store does not know it")
	}
	heir := podOf("new", "web", false)
	if left := a.endReplaced(time.Now()); !left || gone(old) {
		t.Error("it ends before another one is ready")
	}
	opts.Metrics = prometheus.NewRegistry()
	soon, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	soon.pods["old"] = old
	if soon.historySeen("second"); !soon.isLost("old") {
		t.Error("an agent that starts meanwhile does not take the pod for lost")
	}
	heir.Update(objectOf("new", "web", true))
	if left := a.endReplaced(time.Now()); !left || !gone(old) || gone(other) || gone(heir) {
		t.Error("another pod is ready in its place, and it goes on")
	}
	if left := a.endReplaced(time.Now().Add(lostLife + time.Second)); left || !gone(other) {
		t.Error("it waits for ever")
	}

	// An agent that starts later knows by its file which history its pods are of.
	opts.Metrics = prometheus.NewRegistry()
	again, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	again.pods["old"] = old
	again.historySeen("second")
	if again.isLost("old") {
		t.Error("a pod is taken for lost though the history is the same")
	}
	again.heard(&http.Response{Header: http.Header{historyHeader: {"third"}}})
	if !again.isLost("old") {
		t.Error("a pod is not taken for lost after a restart")
	}
}

// TestStoreIsLost has the API come back with an empty store, once with the agent running and once while it is away: pods run
// on, the new store's pods are seen at once, and a pod of before ends when one has taken its place.
func TestStoreIsLost(t *testing.T) {
	l := newLab(t)
	l.stopAPI()
	l.api.History = "first"
	l.serve(l.address)
	l.start()
	l.ready()
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}}
	l.bind("web", spec)
	l.bind("other", spec)
	l.running("web")
	l.running("other")
	for range 50 { // the new store's revisions are lower ones, then
		l.put(configMap("filler", nil))
	}
	before := l.pids()

	l.lose("second")
	l.ready()
	began := time.Now()
	l.bind("new", spec)
	l.running("new")
	t.Logf("a pod of the new store runs after %v", time.Since(began))
	if now := l.pids(); now["web/main"] != before["web/main"] || now["other/main"] != before["other/main"] {
		t.Errorf("processes were %v, are %v", before, now)
	}

	l.halt()
	l.lose("third")
	l.start()
	l.ready()
	l.bind("web", spec)
	l.running("web")
	l.eventually("the pod whose place was taken ends", 20*time.Second, func() error {
		if now := l.pids(); now["other/main"] != before["other/main"] || now["new/main"] == 0 {
			return fmt.Errorf("processes %v", now)
		}
		if n := len(l.agent.allPods()); n != 3 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}
