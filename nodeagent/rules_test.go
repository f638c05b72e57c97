package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/cluster"
	"lockstep/nodeagent/dns"
	"lockstep/nodeagent/dns/names"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/replica"
	"lockstep/proxy"
)

// netOnly is an agent's rules and names without its pods, on directories that stay when another one comes.
type netOnly struct {
	t    *testing.T
	opts Options
}

func web() []*corev1.Service {
	return []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.79", Ports: []corev1.ServicePort{{Port: 80}}}}}
}

// endpoint is behind the service; there are rules for it.
func endpoint() []*discoveryv1.EndpointSlice {
	port := int32(8080)
	return []*discoveryv1.EndpointSlice{{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.42.7.99"}}},
	}}
}

// endNetwork removes an agent's rules and ends its names, which outlive it.
func endNetwork(t *testing.T, o Options) {
	ctx := context.Background()
	if err := errors.Join(stopCompanions(ctx, o), proxy.Cleanup(ctx), cgroup.Remove(namesCgroup(o.NodeName)),
		removeEmptyParents(filepath.Dir(namesCgroup(o.NodeName)))); err != nil {
		t.Error(err)
	}
	for _, root := range cgroup.Hierarchies() {
		if _, err := os.Stat(filepath.Join(root, namesCgroup(o.NodeName))); err == nil {
			t.Errorf("a cgroup is left in %s", root)
		}
	}
	if dns.Answers(ctx, o.RunDir) {
		t.Error("the names process is left")
	}
}

// start has rules written and names answered until stop.
func (n *netOnly) start() (a *Agent, stop func()) {
	n.t.Helper()
	a, err := New(n.opts)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.group, a.ctx = errgroup.WithContext(ctx)
	a.cluster.Publish(&cluster.Snapshot{State: replica.State{Services: web()}})
	a.group.Go(func() error { return a.serveServices(a.ctx) })
	return a, func() {
		cancel()
		if err := a.group.Wait(); err != nil {
			n.t.Errorf("the network ended with %v", err)
		}
	}
}

func (n *netOnly) until(what string, f func() error) {
	n.t.Helper()
	eventually.Nil(n.t, 60*time.Second, what, f)
}

func vitals(a *Agent, now time.Time) register.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	var s register.State
	a.reportVitals(&s, now)
	return s
}

func ask() error {
	m, _, err := new(mdns.Client).Exchange(new(mdns.Msg).SetQuestion("web.default.svc.cluster.local.", mdns.TypeA), "10.43.0.10:53")
	if err == nil && (len(m.Answer) != 1 || m.Answer[0].(*mdns.A).A.String() != "10.43.0.79") {
		err = fmt.Errorf("answer %v", m)
	}
	return err
}

// TestNodeIsReadyWithItsRulesAndNames: where the rules of services cannot be written the node says so, from the start and
// later, and says when they can be again. Names are answered while no agent runs, until the node is reset.
func TestNodeIsReadyWithItsRulesAndNames(t *testing.T) {
	bin, broken := t.TempDir(), filepath.Join(t.TempDir(), "broken")
	for _, name := range []string{"iptables-nft-restore", "iptables-nft-save"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then echo 'no nf_tables here' >&2; exit 4; fi\nexec %s \"$@\"\n", broken, real)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	breaks := func() {
		t.Helper()
		if err := os.WriteFile(broken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mends := func() {
		t.Helper()
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "agent-") // unix sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	n := &netOnly{
		t,
		Options{Server: "https://127.0.0.1:1", NodeName: "n" + filepath.Base(dir)[6:], NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP)},
			DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Version: "v1-test"},
	}
	t.Cleanup(func() {
		endNetwork(t, n.opts)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	fails := func(a *Agent) func() error {
		return func() error {
			if s := vitals(a, time.Now()); !strings.Contains(s.NoRules, "no nf_tables here") || s.Undecided != "" {
				return fmt.Errorf("%q, %q", s.NoRules, s.Undecided)
			}
			return nil
		}
	}
	works := func(a *Agent) func() error {
		return func() error {
			if s := vitals(a, time.Now()); s.NoRules != "" || s.Undecided != "" || len(s.NotReady) > 0 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		}
	}

	fresh, err := New(n.opts)
	if err != nil {
		t.Fatal(err)
	}
	if s := vitals(fresh, time.Now()); s.Undecided == "" || s.NoRules != "" {
		t.Errorf("before services are known: %+v", s)
	}
	breaks()
	first, stop := n.start()
	n.until("rules that cannot be written are told", fails(first))
	mends()
	n.until("ready", works(first))
	n.until("names answered", ask)
	select {
	case <-first.changed:
	default:
		t.Error("the node is not reported anew")
	}
	breaks()
	first.cluster.Publish(&cluster.Snapshot{State: replica.State{Services: web(), Slices: endpoint()}})
	n.until("rules that can no longer be written are told", fails(first))
	mends()
	n.until("ready again", works(first))
	stop()

	second, stop := n.start()
	n.until("ready, with another agent", works(second))
	n.until("names answered", ask)
	stop()
	for range 100 {
		if err := ask(); err != nil {
			t.Fatalf("while no agent runs: %v", err)
		}
	}
	if pids := companions(n.opts.RunDir, names.Command); len(pids) != 1 {
		t.Errorf("%d processes outlive the agent", len(pids))
	}
}
