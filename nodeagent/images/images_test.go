package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
)

var (
	containerd    *client.Client
	containerdDir string
)

// TestMain runs the tests with a containerd of their own, in a mount namespace of their own.
func TestMain(m *testing.M) {
	asroot.Main("the tests of nodeagent/images")
	apart.Main(syscall.CLONE_NEWNS)
	code, err := withContainerd(m.Run)
	if err = errors.Join(err, goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withContainerd(run func() int) (int, error) {
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	containerdDir = dir
	address := filepath.Join(dir, "sock")
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = %q
`, dir+"/root", dir+"/state", address)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		return 0, err
	}
	logs, err := os.Create(dir + "/log")
	if err != nil {
		return 0, err
	}
	defer logs.Close()
	cmd := exec.Command("containerd", "--config", dir+"/config.toml")
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	containerd, err = client.New(address)
	if err != nil {
		return 0, err
	}
	defer containerd.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := containerd.IsServing(ctx); err != nil {
		text, _ := os.ReadFile(dir + "/log")
		return 0, fmt.Errorf("containerd does not serve: %w\n%s", err, text)
	}
	return run(), nil
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// fixtures numbers them: each has a containerd namespace of its own.
var fixtures atomic.Int64

// clock is time that the test moves.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(1_800_000_000, c.Load()) }

// fixture is a manager whose every registry is one on this machine.
type fixture struct {
	*Manager
	t        testing.TB
	clock    *clock
	registry *httptest.Server
	handle   atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool] // true: answered

	mu   sync.Mutex
	gets map[string]int // by path
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: &clock{}, gets: map[string]int{}}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	f.registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		if r.Method == http.MethodGet {
			f.gets[r.URL.Path]++
		}
		f.mu.Unlock()
		if handle := f.handle.Load(); handle != nil && (*handle)(w, r) {
			return
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(f.registry.Close)
	certs := t.TempDir()
	hosts := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", f.registry.URL)
	if err := os.MkdirAll(filepath.Join(certs, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The server line keeps containerd from going to the real registry when the mirror fails.
	hosts = fmt.Sprintf("server = %q\n", f.registry.URL) + hosts
	if err := os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := New(testContext(t), Options{
		Client: containerd, Namespace: fmt.Sprintf("test-%d", fixtures.Add(1)), CertsDirs: []string{filepath.Join(certs, "none"), certs},
		DiskPath: certs, Now: f.clock.now, Boot: "this one",
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Manager = m
	return f
}

// push puts an image with its own layers into the registry, at the path that a mirror has it.
func (f *fixture) push(path string) v1.Image {
	f.t.Helper()
	image, err := random.Image(64<<10, 2)
	if err == nil {
		image, err = mutate.Config(image, v1.Config{
			Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{"A=b"}, User: "1000:1000",
			WorkingDir: "/srv", StopSignal: "SIGQUIT",
		})
	}
	if err == nil {
		var file *v1.ConfigFile
		if file, err = image.ConfigFile(); err == nil {
			file = file.DeepCopy()
			file.OS, file.Architecture = "linux", runtime.GOARCH
			image, err = mutate.ConfigFile(image, file)
		}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.pushImage(path, image)
	return image
}

func (f *fixture) pushImage(path string, image v1.Image) {
	f.t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(f.registry.URL, "http://")+"/"+path, name.Insecure)
	if err == nil {
		err = remote.Write(ref, image)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// ensure asks for an image and returns the events, too.
func (f *fixture) ensure(req Request) (*Image, string, error) {
	var events []string
	req.Event = func(e Event) { events = append(events, e.Type+" "+e.Reason+" "+e.Message) }
	image, err := f.Ensure(testContext(f.t), req)
	return image, strings.Join(events, "\n"), err
}

func (f *fixture) got(part string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, count := range f.gets {
		if strings.Contains(path, part) {
			n += count
		}
	}
	return n
}

func TestPull(t *testing.T) {
	f := newFixture(t)
	pushed := f.push("library/app:1")
	image, events, err := f.ensure(Request{Image: "app:1"})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := pushed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if image.Name != "docker.io/library/app:1" || image.ID != "docker.io/library/app@"+digest.String() {
		t.Errorf("got name %s, id %s", image.Name, image.ID)
	}
	c := image.Config
	config := fmt.Sprintf("%v %v %v %s %s %s", c.Entrypoint, c.Cmd, c.Env, c.User, c.WorkingDir, c.StopSignal)
	if config != "[/app] [serve] [A=b] 1000:1000 /srv SIGQUIT" {
		t.Errorf("got config %s", config)
	}
	want := fmt.Sprintf("Normal Pulling Pulling image \"app:1\"\n"+
		"Normal Pulled Successfully pulled image \"app:1\" in 0s (0s including waiting). Image size: %d bytes.", image.Size)
	if events != want || image.Size < 64<<10 {
		t.Errorf("got events %s\nwant %s", events, want)
	}
	unpacked, err := image.Containerd.IsUnpacked(f.context(testContext(t)), image.Snapshotter)
	if err != nil || !unpacked {
		t.Errorf("unpacked: %v, %v", unpacked, err)
	}
	before := f.got("/")
	for _, name := range []string{"app:1", "docker.io/library/app:1"} {
		_, events, err := f.ensure(Request{Image: name})
		want := fmt.Sprintf("Normal Pulled Container image %q already present on machine and can be accessed by the pod", name)
		if err != nil || events != want {
			t.Errorf("%s: %s, %v", name, events, err)
		}
	}
	if f.got("/") != before {
		t.Error("asked the registry for what is here")
	}
	if _, _, err := f.ensure(Request{Image: "app@" + digest.String()}); err != nil {
		t.Errorf("by digest: %v", err)
	}
	second := f.push("library/app:1") // the tag moves on
	if image, _, err = f.ensure(Request{Image: "app:1", Policy: corev1.PullAlways}); err != nil {
		t.Fatal(err)
	}
	if digest, _ := second.Digest(); !strings.HasSuffix(image.ID, digest.String()) {
		t.Errorf("Always got %s", image.ID)
	}
}

func TestRefusedAndBackedOff(t *testing.T) {
	f := newFixture(t)
	check := func(req Request, reason, message, wantEvents string, retry time.Duration) {
		t.Helper()
		_, events, err := f.ensure(req)
		e, ok := err.(*Error)
		if !ok || e.Reason != reason || !strings.Contains(e.Message, message) || !strings.Contains(events, wantEvents) {
			t.Fatalf("got %v\nevents %s", err, events)
		}
		if got := e.RetryAt.Sub(f.clock.now()); retry == 0 && !e.RetryAt.IsZero() || retry > 0 && got != retry {
			t.Errorf("%s: retry after %v, want %v", reason, got, retry)
		}
	}
	check(Request{Image: "App"}, ReasonInvalidImageName, `Failed to apply default image tag "App": couldn't parse image name "App"`,
		"Warning InspectFailed ", 0)
	check(Request{Image: "x:1", Policy: corev1.PullNever}, ReasonErrImageNeverPull,
		`Container image "x:1" is not present with pull policy of Never`,
		"Warning ErrImageNeverPull ", 0)
	notFound := `failed to pull and unpack image "docker.io/library/x:1": failed to resolve reference "docker.io/library/x:1": `
	check(Request{Image: "x:1"}, ReasonErrImagePull, notFound, `Warning Failed Failed to pull image "x:1": `+notFound, 10*time.Second)
	asked := f.got("/")
	check(Request{Image: "x:1"}, ReasonImagePullBackOff, `Back-off pulling image "x:1": ErrImagePull: `+notFound,
		`Normal BackOff Back-off pulling image "x:1"`, 10*time.Second)
	if f.got("/") != asked {
		t.Error("asked the registry while backing off")
	}
	f.clock.Add(int64(10 * time.Second))
	check(Request{Image: "x:1"}, ReasonErrImagePull, notFound, "Failed", 20*time.Second)
	f.push("library/x:1")
	f.clock.Add(int64(20 * time.Second))
	if _, _, err := f.ensure(Request{Image: "x:1"}); err != nil {
		t.Error(err)
	}
}

func TestPullSecrets(t *testing.T) {
	f := newFixture(t)
	f.push("team/app:1")
	address := strings.TrimPrefix(f.registry.URL, "http://")
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "me" && password == "hunter2" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "no", http.StatusUnauthorized)
		return true
	}
	f.handle.Store(&handle)
	secret := func(host, password string) corev1.Secret {
		return corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":"me","password":%q}}}`, host, password),
		}}
	}
	if _, _, err := f.ensure(Request{Image: address + "/team/app:1"}); err == nil {
		t.Error("pulled without a secret")
	}
	// Another pod's better secret need not wait for this one's back-off; its second credential is tried, too.
	_, events, err := f.ensure(Request{
		Image:   address + "/team/app:1",
		Secrets: []corev1.Secret{secret(address+"/team", "wrong"), secret(address, "hunter2")},
	})
	if err != nil || strings.Contains(events, "hunter2") {
		t.Errorf("got %v, events %s", err, events)
	}
	// Through a mirror: the docker.io credential is not for it.
	_, _, err = f.ensure(Request{Image: "team/app:1", Secrets: []corev1.Secret{secret("https://index.docker.io/v1/", "hunter2")}})
	if err == nil {
		t.Error("the mirror got the credential of the registry it mirrors")
	}
}

func TestPullsAreShared(t *testing.T) {
	f := newFixture(t)
	image := f.push("library/app:1")
	var all sync.WaitGroup
	release := make(chan struct{})
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/1") {
			<-release
		}
		return false
	}
	f.handle.Store(&handle)
	gaveUp, cancel := context.WithCancel(testContext(t))
	all.Go(func() {
		if _, err := f.Ensure(gaveUp, Request{Image: "app:1"}); err != context.Canceled {
			t.Errorf("who gave up got %v", err)
		}
	})
	for range 9 {
		all.Go(func() {
			if _, err := f.Ensure(testContext(t), Request{Image: "app:1"}); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	time.Sleep(10 * time.Millisecond)
	close(release)
	all.Wait()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		digest, _ := layer.Digest()
		if n := f.got(digest.String()); n != 1 {
			t.Errorf("a layer was fetched %d times", n)
		}
	}
}

// TestDamage lets the first answer for a layer be wrong, then one be cut in the middle.
func TestDamage(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"other bytes": func(b []byte) []byte { b[len(b)/2] ^= 0xff; return b },
		"half of it":  func(b []byte) []byte { return b[:len(b)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			image := f.push("library/app:1")
			layers, err := image.Layers()
			if err != nil {
				t.Fatal(err)
			}
			digest, _ := layers[0].Digest()
			in, err := layers[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			var spoiled atomic.Int32
			handle := func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, digest.String()) {
					return false
				}
				if spoiled.Add(1) > 1 { // the rest of it: the registry of this test knows no ranges
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
					return true
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				_, _ = w.Write(spoil(bytes.Clone(data)))
				return true
			}
			f.handle.Store(&handle)
			if _, events, err := f.ensure(Request{Image: "app:1"}); err != nil {
				t.Errorf("got %v\n%s", err, events)
			}
			if spoiled.Load() < 2 {
				t.Error("nothing was spoiled")
			}
		})
	}
}

// TestMissingContent removes a blob under an image that was not unpacked here.
func TestMissingContent(t *testing.T) {
	f := newFixture(t)
	f.push("library/app:1")
	ctx, heard := unlessSilent(f.context(testContext(t)), time.Minute)
	defer heard.end()
	stored, err := f.client.Fetch(ctx, "docker.io/library/app:1",
		client.WithResolver(f.resolver(ctx, "docker.io/library/app:1", credential{}, heard)))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := f.client.ContentStore().Info(ctx, stored.Target.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for label, value := range manifest.Labels {
		if strings.Contains(label, "gc.ref.content.l.0") {
			for _, info := range []string{value} {
				if err := f.client.ContentStore().Delete(ctx, digestOf(info)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, _, err := f.ensure(Request{Image: "app:1"}); err != nil {
		t.Error(err)
	}
}

// TestRemovedLayers removes what was unpacked: it is unpacked again, without asking the registry.
func TestRemovedLayers(t *testing.T) {
	f := newFixture(t)
	f.push("library/app:1")
	image, _, err := f.ensure(Request{Image: "app:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := f.context(testContext(t))
	layers, err := image.Containerd.RootFS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.client.SnapshotService(f.snapshotter).Remove(ctx, identity.ChainID(layers).String()); err != nil {
		t.Fatal(err)
	}
	before := f.got("/")
	if _, _, err := f.ensure(Request{Image: "app:1"}); err != nil {
		t.Fatal(err)
	}
	if unpacked, err := image.Containerd.IsUnpacked(ctx, f.snapshotter); err != nil || !unpacked || f.got("/") != before {
		t.Errorf("unpacked: %v, %v; asked %d times", unpacked, err, f.got("/")-before)
	}
}

func TestImport(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	first, second := f.push("x"), f.push("x")
	tag, err := name.NewTag("docker.io/library/tarred:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "docker.tar"), tag, first); err != nil {
		t.Fatal(err)
	}
	writeOCI(t, filepath.Join(dir, "web.oci.tar"), second, "v2")
	if err := os.WriteFile(filepath.Join(dir, "broken.tar"), []byte("not a tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	names, err := f.Import(ctx, dir)
	if err == nil || !strings.HasPrefix(err.Error(), "cannot import images of broken.tar: ") {
		t.Errorf("got error %v", err)
	}
	if got := strings.Join(names, " "); got != "docker.io/library/tarred:1 docker.io/library/web:v2" {
		t.Errorf("got %s", got)
	}
	config, err := first.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	image, _, err := f.ensure(Request{Image: "tarred:1", Policy: corev1.PullNever})
	if err != nil || image.ID != config.String() {
		t.Errorf("got %+v, %v", image, err)
	}
	os.Remove(filepath.Join(dir, "broken.tar"))
	if names, err := f.Import(ctx, dir); err != nil || len(names) != 0 {
		t.Errorf("imported again: %v, %v", names, err)
	}
	if removed, err := f.Collect(ctx, nil, Thresholds{High: 1, Low: 1, MinAge: time.Nanosecond}); err != nil || len(removed) != 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if names, err := f.Import(ctx, filepath.Join(dir, "none")); err != nil || names != nil {
		t.Errorf("no directory: %v, %v", names, err)
	}
}

func TestCollect(t *testing.T) {
	f := newFixture(t)
	for _, app := range []string{"old", "new", "wanted"} {
		f.push("library/" + app + ":1")
		if _, _, err := f.ensure(Request{Image: app + ":1"}); err != nil {
			t.Fatal(err)
		}
		f.clock.Add(int64(time.Minute))
	}
	ctx := testContext(t)
	f.clock.Add(int64(10 * time.Hour * 24 * 365)) // past the times that containerd itself notes
	removed, err := f.Collect(ctx, []string{"wanted:1"}, Thresholds{High: 1, Low: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 2 || removed[0].Names[0] != "docker.io/library/old:1" || removed[1].Names[0] != "docker.io/library/new:1" {
		t.Errorf("removed %+v", removed)
	}
	if _, _, err := f.ensure(Request{Image: "wanted:1", Policy: corev1.PullNever}); err != nil {
		t.Error(err)
	}
	if _, _, err := f.ensure(Request{Image: "old:1", Policy: corev1.PullNever}); err == nil {
		t.Error("it is still here")
	}
	if removed, err := f.Collect(ctx, nil, Thresholds{High: 100, Low: 99}); err != nil || len(removed) != 0 {
		t.Errorf("room enough: %v, %v", removed, err)
	}
}

// writeOCI writes an OCI layout with one image as a tar.
func writeOCI(t *testing.T, file string, image v1.Image, tag string) {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := tar.NewWriter(out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func digestOf(text string) digest.Digest { return digest.Digest(text) }
