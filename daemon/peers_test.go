package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/daemon/api"
	"lockstep/daemon/api/peers"
	apitunnel "lockstep/daemon/api/tunnel"
	"lockstep/daemon/control"
	"lockstep/daemon/etcd/etcdtest"
	"lockstep/daemon/pki"
	"lockstep/internal/eventually"
	"lockstep/internal/loopback"
	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/servers"
	"lockstep/nodeagent/tunnel"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// relay is the address that a server advertises: what comes there goes to where it listens, until it is cut, when everything that is
// sent is lost and nobody is told.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
	done  sync.WaitGroup
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", loopback.Free(t).String())
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, to: to}
	r.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.done.Go(func() { r.carry(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		r.done.Wait()
	})
	return r
}

func (r *relay) carry(from net.Conn) {
	r.mu.Lock()
	r.conns = append(r.conns, from)
	lost := r.cut
	r.mu.Unlock()
	if lost {
		return // it stays open, and nobody reads
	}
	to, err := net.Dial("tcp", r.to)
	if err != nil {
		from.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, to)
	r.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			buffer := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buffer)
				if r.lost() {
					if err != nil {
						return
					}
					continue
				}
				if _, broke := way[1].Write(buffer[:n]); err != nil || broke != nil {
					way[0].Close()
					way[1].Close()
					return
				}
			}
		})
	}
	both.Wait()
}

func (r *relay) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

// set cuts the relay or heals it. What was open before a cut stays dead.
func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !cut {
		for _, c := range r.conns {
			c.Close()
		}
		r.conns = nil
	}
	r.cut = cut
}

// one is a server of several in this process.
type one struct {
	name   string
	opts   Options
	relay  *relay
	end    context.CancelFunc
	ended  chan error
	viewer *kubernetes.Clientset
}

func (s *one) url() string { return "https://" + s.relay.listener.Addr().String() }

func (s *one) start(t *testing.T) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	s.end, s.ended = end, make(chan error, 1)
	go func() { s.ended <- Run(ctx, s.opts) }()
	eventually.True(t, 60*time.Second, s.name+" is ready", func() bool {
		select {
		case err := <-s.ended:
			t.Fatalf("%s ended: %v", s.name, err)
		default:
		}
		report, err := control.Dial(s.opts.RunDir).Report(t.Context())
		return err == nil && report.Ready == ""
	})
	s.view(t)
	eventually.True(t, 30*time.Second, s.name+" serves", func() bool {
		_, err := s.viewer.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err == nil
	})
}

// view gives the server's viewer a kubeconfig. It reaches the server itself, whether others are cut off from it or not.
func (s *one) view(t *testing.T) {
	t.Helper()
	direct := control.KubeconfigOptions{Server: "https://" + s.opts.Listen.String()}
	config, err := control.Dial(s.opts.RunDir).Kubeconfig(t.Context(), direct)
	if err != nil {
		t.Fatal(err)
	}
	made, err := clientcmd.RESTConfigFromKubeConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	made.Timeout = 20 * time.Second
	if s.viewer, err = kubernetes.NewForConfig(made); err != nil {
		t.Fatal(err)
	}
}

func (s *one) stop(t *testing.T) {
	t.Helper()
	if s.end == nil {
		return
	}
	s.end()
	if err := <-s.ended; err != nil {
		t.Errorf("%s: %v", s.name, err)
	}
	s.end = nil
}

// several starts servers over one etcd, whose keys are copies of the first one's.
func several(t *testing.T, names ...string) []*one {
	t.Helper()
	database := etcdtest.NewProcess(t, 0)
	database.Start()
	var out []*one
	for _, name := range names {
		o := options(t)
		o.Name = name
		o.Etcd = External{
			Endpoints: database.Endpoints, CAFile: database.TLS.CAFile, CertFile: database.TLS.CertFile, KeyFile: database.TLS.KeyFile,
		}
		s := &one{name: name, opts: o, relay: newRelay(t, o.Listen.String())}
		s.opts.Advertise = s.relay.listener.Addr().(*net.TCPAddr).AddrPort()
		if len(out) > 0 {
			if err := os.CopyFS(filepath.Join(o.DataDir, "pki"), os.DirFS(filepath.Join(out[0].opts.DataDir, "pki"))); err != nil {
				t.Fatal(err)
			}
		}
		s.start(t)
		t.Cleanup(func() { s.stop(t) })
		out = append(out, s)
	}
	eventually.True(t, 30*time.Second, "all servers are endpoints", func() bool { return len(endpoints(t, out[0])) == len(names) })
	return out
}

// endpoints are the servers that run, as the service of the API has them, by what a server tells: a slice itself takes no loopback
// addresses.
func endpoints(t *testing.T, s *one) (at []netip.AddrPort) {
	t.Helper()
	list, err := s.viewer.CoordinationV1().Leases(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var leases []kinds.Object
	for i := range list.Items {
		leases = append(leases, &list.Items[i])
	}
	at, _ = apiservers.Running(view.Of(leases...), time.Now())
	return at
}

// lite is what of a node's agent has to do with servers, as the agent joins it.
type lite struct {
	name    string
	servers *servers.Servers
	end     context.CancelFunc
	running sync.WaitGroup
}

type together struct {
	*register.Link
	line *tunnel.Line
}

func (m together) Moved(from, to string) { m.Link.Moved(from, to); m.line.Hang() }
func (m together) Reset()                { m.Link.Reset(); m.line.Hang() }

func newLite(t *testing.T, name string, all []*one) *lite {
	t.Helper()
	token, err := control.Dial(all[0].opts.RunDir).Token(t.Context(), control.TokenOptions{TTL: time.Hour, Node: name})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var seeds []string
	for _, s := range all {
		seeds = append(seeds, s.url())
	}
	a := &lite{name: name, servers: servers.New(servers.Options{Node: name, Seeds: seeds, File: filepath.Join(dir, "servers")})}
	id := register.Identity{Server: a.servers.Current(), Node: name, Dir: dir}
	if err := id.Join(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	link, err := id.Link()
	if err != nil {
		t.Fatal(err)
	}
	link.Servers = a.servers
	seen := make(chan string, 1)
	link.Heard = func(res *http.Response) {
		if mark := res.Header.Get(api.AuthorityHeader); mark != id.Mark() {
			select {
			case seen <- mark:
			default:
			}
		}
	}
	line := tunnel.NewLine(func() string { return strings.TrimPrefix(a.servers.Current(), "https://") }, id.TLS)
	groups, err := client.New(link.Config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	a.end = end
	quiet := slog.New(slog.DiscardHandler)
	renewed := make(chan struct{}, 1)
	reporter := &register.Reporter{Client: groups, Name: name, Log: quiet, Answered: link.Answered, Changed: renewed,
		State: func(context.Context) register.State { return register.State{} },
		Marks: func() (labels, annotations map[string]string) {
			return nil, map[string]string{kinds.Authority: id.Mark()}
		}}
	a.running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case mark := <-seen:
				now := id
				now.Server = a.servers.Current()
				if mark == id.Mark() || now.Renew(ctx) != nil || link.Trust() != nil {
					continue // asked again by the next answer
				}
				renewed <- struct{}{}
			}
		}
	})
	a.running.Go(func() { _ = a.servers.Run(ctx, together{link, line}) })
	a.running.Go(func() { _ = reporter.Run(ctx) })
	a.running.Go(func() { _ = tunnel.Serve(ctx, quiet, line.Dial, a.handler()) })
	t.Cleanup(func() { a.stop(); link.Reset() })
	return a
}

func (a *lite) stop() {
	a.end()
	a.running.Wait()
}

// handler answers as an agent does: with what is asked for at once, with lines that come one by one, and by giving back what it gets.
func (a *lite) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, a.name) })
	mux.HandleFunc("POST /csi/{driver}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("driver") != "echo.example.org" {
			http.Error(w, "no such driver", http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		buffer := make([]byte, 4<<10)
		for {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})
	return mux
}

func (s *one) ask(ctx context.Context, node string) (string, error) {
	result := s.viewer.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/healthz").Do(ctx)
	data, _ := result.Raw()
	return string(data), result.Error()
}

// peers are those of a server that has the same name and keys, and no agents of its own.
func (s *one) peers(t *testing.T, all []*one) *peers.Peers {
	t.Helper()
	authority, err := pki.Open(pki.Dir(filepath.Join(s.opts.DataDir, "pki")), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := peers.New(peers.Options{Own: &apitunnel.Pool{}, TLS: authority.PeerConfig(s.name), Log: s.opts.Log, Others: func() []peers.Server {
		var out []peers.Server
		for _, other := range all {
			if other.end != nil {
				out = append(out, peers.Server{Name: other.name, Address: other.opts.Listen.String()})
			}
		}
		return out
	}})
	t.Cleanup(p.Close)
	return p
}

// TestAgentsOfAnyServer: agents are spread over three servers and reached through each of them; one whose server is cut off or stopped
// has another within 3 s, is reached through any that is left, and is ready all the time; the service of the API loses the one that is
// gone.
func TestAgentsOfAnyServer(t *testing.T) {
	all := several(t, "s1", "s2", "s3")
	byURL := map[string]*one{}
	for _, s := range all {
		byURL[s.url()] = s
	}
	nodes := map[string]*lite{}
	at := map[*one]int{}
	for i := range 6 {
		name := fmt.Sprintf("n%d", i)
		nodes[name] = newLite(t, name, all)
		at[byURL[nodes[name].servers.Current()]]++
	}
	if len(at) < 2 {
		t.Errorf("all nodes are at one server: %v", at)
	}
	reached := func(through []*one, names ...string) (why string) {
		for _, s := range through {
			for _, name := range names {
				if text, err := s.ask(t.Context(), name); err != nil || text != name {
					return fmt.Sprintf("%s through %s: %q, %v", name, s.name, text, err)
				}
			}
		}
		return ""
	}
	names := slices.Sorted(maps.Keys(nodes))
	why := ""
	eventually.True(t, 20*time.Second, "each node is reached through each server", func() bool {
		why = reached(all, names...)
		return why == ""
	})
	notReady := func() (out []string) {
		list, err := all[0].viewer.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return nil // asked again
		}
		for _, n := range list.Items {
			if c := kinds.NodeCondition(&n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionTrue {
				out = append(out, n.Name)
			}
		}
		return out
	}
	eventually.True(t, 20*time.Second, "all are ready", func() bool { return len(notReady()) == 0 })

	// One of the servers that is not the first, through which the test looks.
	for _, fault := range []string{"cut", "stopped"} {
		var victim *one
		var moved []string
		for _, s := range all[1:] {
			moved = nil
			for _, name := range names {
				if nodes[name].servers.Current() == s.url() {
					moved = append(moved, name)
				}
			}
			if len(moved) > 0 && s.end != nil {
				victim = s
				break
			}
		}
		if victim == nil {
			t.Fatalf("no node is at a server that can be %s", fault)
		}
		began := time.Now()
		if fault == "cut" {
			victim.relay.set(true)
		} else {
			victim.stop(t)
		}
		for _, name := range moved {
			eventually.True(t, 20*time.Second, name+" has another server", func() bool {
				return nodes[name].servers.Current() != victim.url()
			})
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: %s has another server after %v", fault, name, took)
			}
		}
		changed := time.Since(began)
		var left []*one
		for _, s := range all {
			if s != victim && s.end != nil {
				left = append(left, s)
			}
		}
		eventually.True(t, 20*time.Second, "the nodes are reached through the servers that are left", func() bool {
			why = reached(left, moved...)
			return why == ""
		})
		t.Logf("%s: %d nodes have another server after %v, and are reached through any after %v",
			fault, len(moved), changed, time.Since(began))
		if fault == "stopped" {
			eventually.True(t, 20*time.Second, "the service has lost the server", func() bool {
				return len(endpoints(t, all[0])) == len(left)
			})
			t.Logf("%s: the service of the API has lost it after %v", fault, time.Since(began))
		}
		for time.Since(began) < 12*time.Second { // longer than a node may be silent
			if bad := notReady(); len(bad) > 0 {
				t.Fatalf("%s: %v are not ready after %v", fault, bad, time.Since(began))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if fault == "cut" {
			victim.relay.set(false)
		}
	}

	// Streams go through any server, too; and a node that has gone is told as such.
	for _, s := range all {
		if s.end == nil {
			continue
		}
		p := s.peers(t, all)
		conn, err := p.DialController(t.Context(), "n0", "echo.example.org")
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"one", strings.Repeat("two", 5000)} {
			go func() { _, _ = io.WriteString(conn, text) }()
			got := make([]byte, len(text))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
				t.Fatalf("through %s %d bytes came back as %d: %v", s.name, len(text), len(got), err)
			}
		}
		conn.Close()
		_, err = p.DialController(t.Context(), "n0", "none.example.org")
		if err == nil || !strings.Contains(err.Error(), "no such driver") {
			t.Errorf("a refusal through %s: %v", s.name, err)
		}
	}
	nodes["n0"].stop()
	eventually.True(t, 20*time.Second, "a node that has gone is told as such", func() bool {
		_, err := all[0].ask(t.Context(), "n0")
		why = fmt.Sprint(err)
		return strings.Contains(why, "the agent of node n0 has no connection to any server")
	})
}
