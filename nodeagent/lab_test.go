package nodeagent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/daemon/api"
	"lockstep/daemon/api/tunnel"
	"lockstep/daemon/pki"
	"lockstep/internal/asroot"
	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
	_ "lockstep/nodeagent/dns/names/early"
	"lockstep/nodeagent/eviction"
	_ "lockstep/nodeagent/logs/keeper/early"
	"lockstep/nodeagent/runtime"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

const insideEnv = "LOCKSTEP_TEST_INSIDE"

// TestMain runs the tests in network and mount namespaces of their own, which
// containerd and the agent share and which have no way out.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "containerd" {
		listenAsContainerd()
	}
	if os.Getenv(insideEnv) == "" {
		asroot.Main("the agent's tests")
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:   syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
			Unshareflags: syscall.CLONE_NEWNS,
			Pdeathsig:    syscall.SIGKILL,
		}
		if err := cmd.Run(); err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(exit.ExitCode())
			}
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := linkUp(); err != nil {
		fmt.Println("cannot prepare network:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func linkUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	uplink := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}}
	if err := netlink.LinkAdd(uplink); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(uplink, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(uplink)
}

const (
	nodeIP  = "192.168.77.1"
	podCIDR = "10.42.7.0/24"
	busybox = "example.com/busybox:1"
)

// lab is one node with a containerd and an API server of its own.
type lab struct {
	t          testing.TB
	dir        string
	opts       Options
	store      *memory.Store
	containerd *exec.Cmd
	agent      *Agent
	stopAgent  func()
	stopAPI    func()
	address    string
	api        api.Options
}

func newLab(t testing.TB) *lab { return newLabWith(t, pki.Options{}) }

func newLabWith(t testing.TB, authority pki.Options) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-") // unix sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // containers' root file systems are below it, and not all are root's
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l.startContainerd()
	t.Cleanup(func() { l.killContainerd(syscall.SIGTERM) })
	l.startAPI(authority)
	t.Cleanup(func() { l.stopAPI() })
	images := filepath.Join(dir, "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	writeImage(t, filepath.Join(images, "busybox.tar"), busybox)
	l.opts = Options{
		Server: "https://" + l.address, Token: l.token(), NodeName: "n" + filepath.Base(dir)[6:],
		NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP)},
		DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Containerd: filepath.Join(dir, "c", "c.sock"),
		ImagesDir: images, Version: "v1-test",
	}
	// A disk that is large and well filled is no matter of these tests.
	texts := eviction.Default()
	texts.Hard = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi,pid.available<5%"
	policy, err := eviction.Parse(texts)
	if err != nil {
		t.Fatal(err)
	}
	l.opts.Eviction = &policy
	level := slog.LevelWarn
	if os.Getenv("LOCKSTEP_TEST_VERBOSE") != "" {
		level = slog.LevelDebug
	}
	l.opts.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		l.halt()
		if err := Reset(ctx, l.opts); err != nil {
			t.Errorf("Reset = %v", err)
		}
	})
	return l
}

func (l *lab) startContainerd() {
	l.t.Helper()
	dir := filepath.Join(l.dir, "c")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		l.t.Fatal(err)
	}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n"+
		"address = %q\n[ttrpc]\naddress = %q\n",
		dir+"/root", dir+"/state", dir+"/c.sock", dir+"/c.sock.ttrpc")
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	log, err := os.OpenFile(dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	l.containerd = exec.Command("containerd", "--config", dir+"/config.toml")
	l.containerd.Stdout, l.containerd.Stderr = log, log
	l.containerd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.containerd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.eventually("containerd listens", 20*time.Second, func() error {
		if !answers(dir + "/c.sock") {
			return errors.New("not yet")
		}
		return nil
	})
}

func (l *lab) killContainerd(sig syscall.Signal) {
	_ = l.containerd.Process.Signal(sig)
	_ = l.containerd.Wait()
}

func (l *lab) startAPI(opts pki.Options) {
	l.t.Helper()
	authority, err := pki.Open(pki.Dir(filepath.Join(l.dir, "pki")), opts)
	if err != nil {
		l.t.Fatal(err)
	}
	l.store = memory.NewWith(memory.Options{Default: strategy.Default})
	l.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: uuid.NewUUID()}})
	l.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease", UID: uuid.NewUUID()}})
	registry := prometheus.NewRegistry()
	l.api = api.Options{Store: l.store, Authority: authority, Hosts: []string{"127.0.0.1"}, Gatherer: registry, Version: "test",
		Tunnels: &tunnel.Pool{},
		Log:     slog.New(slog.NewTextHandler(testWriter{l.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	l.serve("127.0.0.1:0")
}

// serve answers at an address until stopAPI.
func (l *lab) serve(address string) {
	l.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	l.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	server := api.New(l.api)
	go func() {
		defer close(done)
		if err := server.Serve(ctx, listener); err != nil {
			l.t.Errorf("Serve = %v", err)
		}
	}()
	l.stopAPI = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func (l *lab) token() string {
	l.t.Helper()
	tokens := pki.Tokens{Store: l.store, Commit: l.store}
	token, err := tokens.Create(context.Background(), pki.TokenOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return token.Text(l.api.Authority.Pin())
}

func (l *lab) put(o kinds.Object) {
	l.t.Helper()
	r := l.store.Commit(context.Background(), store.Group{{Key: kinds.KeyOf(o), Object: o, If: store.Anyway, Reason: "test"}})[0]
	if r.Err != nil {
		l.t.Fatal(r.Err)
	}
}

// start runs the agent and gives its node a pod range.
func (l *lab) start() {
	l.t.Helper()
	a, err := New(l.opts)
	if err != nil {
		l.t.Fatal(err)
	}
	a.storageEvery, a.lookEvery = time.Second, time.Second
	l.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			l.t.Errorf("Run = %v", err)
		}
	}()
	l.stopAgent = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func (l *lab) halt() {
	if l.stopAgent != nil {
		l.stopAgent()
	}
}

// ready waits until the node is registered and has its pod range.
func (l *lab) ready() {
	l.t.Helper()
	l.eventually("node registered", 20*time.Second, func() error {
		n := l.node()
		if n == nil {
			return errors.New("no node")
		}
		n = n.DeepCopy()
		n.Spec.PodCIDR, n.Spec.PodCIDRs = podCIDR, []string{podCIDR}
		l.put(n)
		return nil
	})
	l.eventually("node ready", 20*time.Second, func() error {
		if n := l.node(); !kinds.NodeReady(n) {
			return fmt.Errorf("conditions %v", n.Status.Conditions)
		}
		return nil
	})
}

func (l *lab) node() *corev1.Node {
	o := l.store.View().Get(kinds.KeyOf(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.opts.NodeName}}))
	if o == nil {
		return nil
	}
	return o.(*corev1.Node)
}

func (l *lab) pod(name string) *corev1.Pod {
	o := l.store.View().Get(kinds.KeyOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}))
	if o == nil {
		return nil
	}
	return o.(*corev1.Pod)
}

// bind creates a pod that is bound to the node.
func (l *lab) bind(name string, spec corev1.PodSpec) *corev1.Pod {
	l.t.Helper()
	return l.bindWith(name, nil, spec)
}

// bindWith is bind of a pod with annotations.
func (l *lab) bindWith(name string, annotations map[string]string, spec corev1.PodSpec) *corev1.Pod {
	l.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uuid.NewUUID()), CreationTimestamp: metav1.Now(),
			Annotations: annotations},
		Spec: spec,
	}
	p.Spec.NodeName = l.opts.NodeName
	strategy.Default(p)
	if errs := strategy.PrepareCreate(p); len(errs) > 0 {
		l.t.Fatalf("invalid pod: %v", errs)
	}
	l.put(p)
	return p
}

// remove deletes a pod as a controller would.
func (l *lab) remove(name string) {
	l.t.Helper()
	changed, gone := strategy.Delete(l.pod(name).DeepCopy(), time.Now(), nil)
	if gone {
		l.t.Fatalf("pod %s went at once", name)
	}
	l.put(changed)
}

// running waits until a pod is ready and returns it.
func (l *lab) running(name string) *corev1.Pod {
	l.t.Helper()
	l.eventually("pod "+name+" ready", 40*time.Second, func() error {
		p := l.pod(name)
		if p == nil {
			return errors.New("no pod")
		}
		if !podstatus.Ready(&p.Status) {
			return fmt.Errorf("phase %s, conditions %v, containers %v", p.Status.Phase, p.Status.Conditions, p.Status.ContainerStatuses)
		}
		return nil
	})
	return l.pod(name)
}

func (l *lab) gone(name string) {
	l.t.Helper()
	l.eventually("pod "+name+" gone", 40*time.Second, func() error {
		if p := l.pod(name); p != nil {
			return fmt.Errorf("still there: %v", p.Status.ContainerStatuses)
		}
		return nil
	})
}

func (l *lab) eventually(what string, d time.Duration, f func() error) {
	l.t.Helper()
	eventually.Nil(l.t, d, what, f)
}

// pids are the first processes of the node's running containers.
func (l *lab) pids() map[string]uint32 {
	l.t.Helper()
	out := map[string]uint32{}
	for _, c := range l.list() {
		if c.State == runtime.Running {
			out[c.PodName+"/"+c.Name] = c.PID
		}
	}
	return out
}

func (l *lab) list() []runtime.Container {
	l.t.Helper()
	rt, err := runtime.Open(runtime.Options{Address: l.opts.Containerd, Node: l.opts.NodeName})
	if err != nil {
		l.t.Fatal(err)
	}
	defer rt.Close()
	list, err := rt.List(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// shell is a container that runs a script in busybox.
func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: busybox, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
		Resources: corev1.ResourceRequirements{}}
}

// forever sleeps until it is told to end.
const forever = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"

// writeImage writes an archive with busybox and a few users.
func writeImage(t testing.TB, path, ref string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "etc/", "tmp/"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, data)
	for _, n := range []string{
		"sh", "sleep", "cat", "id", "echo", "httpd", "wget", "touch", "hostname", "ip", "ls", "mount", "test", "ps",
		"grep", "dd", "ipcs",
	} {
		add(tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nweb:x:1001:\nextra:x:1002:web\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64",
		OS:           "linux",
		Config:       v1.Config{Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}},
		RootFS:       func() v1.RootFS { c, _ := img.ConfigFile(); return c.RootFS }(),
	})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		t.Fatal(err)
	}
}

// testWriter writes a log to the test's; lines after its end are dropped.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(line []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}

// drop removes an object from the store at once.
func (l *lab) drop(name string) {
	l.t.Helper()
	r := l.store.Commit(context.Background(), store.Group{{Key: kinds.KeyOf(l.pod(name)), If: store.Anyway, Reason: "test"}})[0]
	if r.Err != nil {
		l.t.Fatal(r.Err)
	}
}

// delete removes any object from the store at once.
func (l *lab) delete(o kinds.Object) {
	l.t.Helper()
	r := l.store.Commit(context.Background(), store.Group{{Key: kinds.KeyOf(o), If: store.Anyway, Reason: "test"}})[0]
	if r.Err != nil {
		l.t.Fatal(r.Err)
	}
}

// fetch gets a URL once and compares the body.
func fetch(url, want string) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && string(body) != want {
		err = fmt.Errorf("answered %q", body)
	}
	return err
}

// events are those posted about a pod, or the node.
func (l *lab) events(name string) []*corev1.Event {
	var out []*corev1.Event
	for e := range view.List[*corev1.Event](l.store.View(), "default") {
		if e.InvolvedObject.Name == name {
			out = append(out, e)
		}
	}
	return out
}
