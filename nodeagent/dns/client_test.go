package dns

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/loopback"
	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/dns/names"
	_ "lockstep/nodeagent/dns/names/early" // this binary is the process's program, too
)

func TestMain(m *testing.M) {
	if os.Getenv("DNS_TEST") == "agent" {
		agent()
		return
	}
	goleak.VerifyTestMain(m)
}

// agent is an agent's part that has names answered: DNS_DIR, DNS_BUILD, DNS_LISTEN, and as DNS_NAMES the services. It says
// "answered" when they are.
func agent() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := newClient(os.Getenv("DNS_DIR"), os.Getenv("DNS_BUILD"), os.Getenv("DNS_LISTEN"), strings.Fields(os.Getenv("DNS_NAMES"))...)
	var once sync.Once
	c.opts.Changed = func() {
		if c.Health() == nil {
			once.Do(func() { fmt.Println("answered") })
		}
	}
	if err := c.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newClient(dir, build, listen string, services ...string) *Client {
	var s State
	for i, name := range services {
		s.Services = append(s.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.43.1.%d", i+1)}})
	}
	c, err := New(Options{
		Listen: []netip.AddrPort{netip.MustParseAddrPort(listen)}, Domain: "cluster.local",
		State: func() State { return s },
		Wake:  make(chan struct{}), Process: companion.Program{RunDir: dir, Build: build},
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		panic(err)
	}
	return c
}

// node is a run directory with the address that names are asked at.
type node struct {
	t           *testing.T
	dir, listen string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), listen: loopback.Free(t).String()}
	t.Cleanup(func() {
		if s := n.stats(); s != nil {
			must(t, syscall.Kill(s.PID, syscall.SIGKILL))
		}
	})
	return n
}

// start runs an agent and returns when it has names answered.
func (n *node) start(build string, services ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DNS_TEST=agent", "DNS_DIR="+n.dir, "DNS_BUILD="+build, "DNS_LISTEN="+n.listen,
		"DNS_NAMES="+strings.Join(services, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(n.t, err)
	must(n.t, cmd.Start())
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		n.t.Fatalf("the agent does not answer: %q, %v", line, err)
	}
	return cmd
}

func (n *node) stats() *names.Stats {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := companion.Program{Name: names.Command, RunDir: n.dir}.Dial(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close()
	reply, err := ask(ctx, conn, names.Request{Op: "stats"})
	if err != nil {
		return nil
	}
	return reply.Stats
}

// ask asks for a service's address, with the patience of a resolver.
func (n *node) ask(network, service string) (string, error) {
	client := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := client.Exchange(new(dns.Msg).SetQuestion(service+".shop.svc.cluster.local.", dns.TypeA), n.listen)
	switch {
	case err != nil:
		return "", err
	case len(m.Answer) != 1:
		return dns.RcodeToString[m.Rcode], nil
	}
	return m.Answer[0].(*dns.A).A.String(), nil
}

// TestNamesOutliveTheAgent asks all the time while agents are stopped, killed, started again and upgraded: every question is
// answered, with what was last known.
func TestNamesOutliveTheAgent(t *testing.T) {
	n := newNode(t)
	first := n.start("one", "cart")
	began := n.stats()

	done, asked := make(chan struct{}), map[string]int{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, network := range []string{"udp", "tcp"} {
		asking.Go(func() {
			count := 0
			for {
				select {
				case <-done:
					mu.Lock()
					asked[network] = count
					mu.Unlock()
					return
				default:
				}
				if got, err := n.ask(network, "cart"); got != "10.43.1.1" {
					t.Errorf("%s question %d: %q, %v", network, count, got, err)
					return
				}
				count++
			}
		})
	}
	ends := func(cmd *exec.Cmd, sig syscall.Signal) {
		t.Helper()
		must(t, cmd.Process.Signal(sig))
		_ = cmd.Wait()
		if got, err := n.ask("udp", "cart"); got != "10.43.1.1" {
			t.Errorf("after %s: %q, %v", sig, got, err)
		}
	}
	ends(first, syscall.SIGTERM)
	second := n.start("one", "cart", "pay")
	if got, err := n.ask("udp", "pay"); got != "10.43.1.2" {
		t.Errorf("a service that came with the second agent: %q, %v", got, err)
	}
	ends(second, syscall.SIGKILL)
	third := n.start("one", "cart")
	if got, err := n.ask("udp", "pay"); got != "NXDOMAIN" {
		t.Errorf("a service that went: %q, %v", got, err)
	}
	if now := n.stats(); now.PID != began.PID {
		t.Errorf("the process was %d, is %d: agents of one build share it", began.PID, now.PID)
	}
	ends(third, syscall.SIGKILL)
	for i := range 5 {
		ends(n.start(fmt.Sprintf("upgrade-%d", i), "cart"), syscall.SIGTERM)
	}
	close(done)
	asking.Wait()
	now := n.stats()
	if now.Build != "upgrade-4" || now.PID == began.PID {
		t.Errorf("after five upgrades: %+v", now)
	}
	for network, count := range asked {
		if count < 20 {
			t.Errorf("only %d questions by %s", count, network)
		}
	}
	t.Logf("questions: %v", asked)
}

// TestNamesProcessIsStartedAgain kills the process under an agent that runs.
func TestNamesProcessIsStartedAgain(t *testing.T) {
	n := newNode(t)
	c := newClient(n.dir, "one", n.listen, "cart")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	eventually := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never: %s (%v)", what, c.Health())
			}
		}
	}
	answered := func() bool { got, _ := n.ask("udp", "cart"); return got == "10.43.1.1" && c.Health() == nil }
	eventually("answered", answered)
	before := n.stats().PID
	must(t, syscall.Kill(before, syscall.SIGKILL))
	eventually("answered again", func() bool {
		s := n.stats()
		return s != nil && s.PID != before && answered()
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.stats().PID))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			t.Logf("the process takes %d MiB", kb>>10)
			if kb > 40<<10 {
				t.Errorf("the process takes %d KiB", kb)
			}
		}
	}
}

// TestNamesProcessEndsWithTheMachine: SIGTERM ends it where no pod runs, and does nothing where that is not known.
func TestNamesProcessEndsWithTheMachine(t *testing.T) {
	for pods, ends := range map[string]bool{"": false, "/lockstep-test-names/none": true} {
		n := newNode(t)
		program := companion.Program{Name: names.Command, RunDir: n.dir, Build: "one", For: pods}
		must(t, program.Start(t.Context()))
		pid := n.stats().PID
		must(t, syscall.Kill(pid, syscall.SIGTERM))
		if !ends {
			time.Sleep(time.Second) // an absence cannot be waited for
			if s := n.stats(); s == nil || s.PID != pid {
				t.Errorf("after SIGTERM: %+v, it was %d", s, pid)
			}
			continue
		}
		for deadline := time.Now().Add(30 * time.Second); n.stats() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it stays")
			}
		}
	}
}

// TestTakenAddress: somebody else's server keeps names from being answered, until it goes.
func TestTakenAddress(t *testing.T) {
	n := newNode(t)
	taken, err := net.ListenPacket("udp", n.listen)
	must(t, err)
	c := newClient(n.dir, "one", n.listen, "cart")
	if err := c.Health(); err != ErrNotAnswered {
		t.Errorf("before the start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	wait := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if got := fmt.Sprint(c.Health()); strings.Contains(got, want) {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("health %q, want %q", got, want)
			}
		}
	}
	wait("address already in use")
	taken.Close()
	wait("<nil>")
	if _, err := os.Stat(filepath.Join(n.dir, names.Command, "sock")); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Listen: make([]netip.AddrPort, 1)}, {Listen: make([]netip.AddrPort, 1), Domain: "x"},
		{Listen: make([]netip.AddrPort, 1), Domain: "x", State: func() State { return State{} }}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
