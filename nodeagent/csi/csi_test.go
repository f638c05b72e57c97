package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/csidriver"
	"lockstep/internal/eventually"
	"lockstep/kinds"
)

// TestLife has two pods use a volume, one after the other's start, while node and driver are started again.
func TestLife(t *testing.T) {
	b := newBench(t)
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	id := b.make("one")
	first, second := b.pod("u1"), b.pod("u2")
	first.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	path, err := b.manager.Publish(t.Context(), b.volume(first, id))
	if err != nil {
		t.Fatal(err)
	}
	if want := b.dir + "/pods/u1/volumes/kubernetes.io~csi/pv-" + id + "/mount"; path != want {
		t.Errorf("published at %s, want %s", path, want)
	}
	if err := os.WriteFile(path+"/file", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Sys().(*syscall.Stat_t).Gid != 2000 {
		t.Errorf("the group does not have it: %v, %v", st, err)
	}
	if used, err := b.manager.InUse(); err != nil || len(used) != 1 || string(used[0]) != "kubernetes.io/csi/"+name+"^"+id {
		t.Errorf("in use: %v, %v", used, err)
	}

	// Without driver and API, as after a start of the agent beside them, what is published is found.
	b.stopNode()
	b.stopDriver()
	b.mu.Lock()
	b.offline = true
	b.mu.Unlock()
	b.startNode()
	if again, err := b.manager.Publish(t.Context(), b.volume(first, id)); err != nil || again != path {
		t.Errorf("published again at %s: %v", again, err)
	}
	if _, err := b.manager.Publish(t.Context(), b.volume(second, id)); err == nil || !strings.Contains(err.Error(),
		`MountVolume.SetUp failed for volume "pv-`+id+`" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name `+name+
			" not found in the list of registered CSI drivers") {
		t.Errorf("without a driver: %v", err)
	}
	if err := b.manager.Unpublish(t.Context(), "u1"); err == nil {
		t.Error("unpublished without a driver")
	}
	if _, err := os.Stat(path + "/file"); err != nil {
		t.Error(err)
	}
	b.mu.Lock()
	b.offline = false
	b.mu.Unlock()
	b.startDriver("b.sock")
	b.registered(true)
	other, err := b.manager.Publish(t.Context(), b.volume(second, id))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(other + "/file"); err != nil || string(data) != "kept" {
		t.Errorf("the second pod reads %q: %v", data, err)
	}
	if err := b.manager.Unpublish(t.Context(), "u1"); err != nil {
		t.Fatal(err)
	}
	if used, _ := b.manager.InUse(); len(used) != 1 || b.calls("NodeUnstageVolume") != 0 {
		t.Errorf("unstaged under a pod: %v", used)
	}
	// The other one vanishes while nobody looks.
	b.stopNode()
	b.forget("u2")
	b.startNode()
	b.clean()
	if n := b.calls("NodeUnstageVolume"); n != 1 {
		t.Errorf("unstaged %d times", n)
	}
	if err := b.manager.Unpublish(t.Context(), "u2"); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestGrow: a volume grows where it is mounted, and nowhere else.
func TestGrow(t *testing.T) {
	b := newBench(t)
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	v := b.volume(b.pod("u1"), b.make("one"))
	if err := b.manager.Grow(t.Context(), v, 2<<20); err == nil || b.calls("NodeExpandVolume") != 0 {
		t.Errorf("a volume that is not mounted grows: %v", err)
	}
	if _, err := b.manager.Publish(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.manager.Grow(t.Context(), v, 2<<20); err != nil {
			t.Error(err)
		}
	}
	if n := b.calls("NodeExpandVolume"); n != 2 {
		t.Errorf("called %d times", n)
	}
	b.faults("NodeExpandVolume fail")
	if err := b.manager.Grow(t.Context(), v, 4<<20); err == nil || !strings.Contains(err.Error(), "NodeExpandVolume was told to fail") {
		t.Errorf("a failure: %v", err)
	}
	if err := b.manager.Unpublish(t.Context(), "u1"); err != nil {
		t.Error(err)
	}
	b.clean()
}

// TestHang: a call that hangs keeps no other pod from its volumes; what it was for is undone when its pod ends.
func TestHang(t *testing.T) {
	b := newBench(t)
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	one, two := b.make("one"), b.make("two")
	b.faults("NodePublishVolume hang")
	stuck, give := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := b.manager.Publish(stuck, b.volume(b.pod("u1"), one)); ended <- err }()
	eventually.True(t, 20*time.Second, "it hangs", func() bool { return b.calls("NodePublishVolume") == 1 })
	b.faults("")
	if _, err := b.manager.Publish(t.Context(), b.volume(b.pod("u2"), two)); err != nil {
		t.Error(err)
	}
	if _, err := b.manager.Publish(t.Context(), b.volume(b.pod("u3"), one)); err != nil {
		t.Errorf("the same volume in another pod: %v", err)
	}
	give()
	if err := <-ended; err == nil {
		t.Error("what hangs has succeeded")
	}
	b.faults("NodeUnpublishVolume fail\nNodeUnstageVolume fail")
	if err := b.manager.Unpublish(t.Context(), "u2"); err == nil || !strings.Contains(err.Error(), "NodeUnpublishVolume was told to fail") {
		t.Errorf("a failure: %v", err)
	}
	b.faults("NodeUnstageVolume fail")
	for _, uid := range []types.UID{"u1", "u2", "u3"} {
		if err := b.manager.Unpublish(t.Context(), uid); err != nil {
			t.Error(err)
		}
	}
	eventually.True(t, 20*time.Second, "it fails to unstage", func() bool { return b.calls("NodeUnstageVolume") > 1 })
	if used, _ := b.manager.InUse(); len(used) == 0 {
		t.Error("what is staged is not in use")
	}
	b.faults("")
	b.clean()
}

// TestInline mounts a volume that a pod states, and refuses it where the driver does not have such.
func TestInline(t *testing.T) {
	b := newBench(t)
	b.object.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	pod := b.pod("u1")
	inline := &corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: name,
		VolumeAttributes: map[string]string{"color": "red"}}}}
	path, err := b.manager.Publish(t.Context(), Inline(pod, inline))
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"color": "red", "pod.name": "p-u1", "pod.uid": "u1", "ephemeral": "true",
		"serviceAccount.name":   "default",
		"serviceAccount.tokens": `{"vault":{"token":"x.eyJleHAiOjE3MDAwMDAwMDB9.y","expirationTimestamp":"2023-11-14T22:13:20Z"}}`,
	} {
		if data, err := os.ReadFile(path + "/" + file); err != nil || string(data) != want {
			t.Errorf("%s is %q, want %q: %v", file, data, want, err)
		}
	}
	if b.calls("NodeStageVolume") != 0 {
		t.Error("an inline volume was staged")
	}
	b.mu.Lock()
	b.object = &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}}}
	b.mu.Unlock()
	_, err = b.manager.Publish(t.Context(), Inline(b.pod("u2"), inline))
	want := `MountVolume.SetUp failed for volume "scratch" : kubernetes.io/csi: mounter.SetupAt failed to check ` +
		`volume lifecycle mode: volume mode "Ephemeral" not supported by driver ` + name + ` (only supports ["Persistent"])`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if err := errors.Join(b.manager.Unpublish(t.Context(), "u1"), b.manager.Unpublish(t.Context(), "u2")); err != nil {
		t.Error(err)
	}
	b.clean()
}

// TestWaits: a volume that is not attached, or not told to be in use, is not touched.
func TestWaits(t *testing.T) {
	b := newBench(t)
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	id := b.make("one")
	b.notInUse = true
	ended := make(chan error, 1)
	go func() { _, err := b.manager.Publish(t.Context(), b.volume(b.pod("u1"), id)); ended <- err }()
	eventually.True(t, 20*time.Second, "it is in use", func() bool { used, _ := b.manager.InUse(); return len(used) == 1 })
	time.Sleep(3 * firstLook)
	if b.calls("NodeStageVolume") != 0 {
		t.Error("staged though nobody knows that it is in use")
	}
	b.mu.Lock()
	b.notInUse = false
	b.mu.Unlock()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 5*firstLook)
	defer cancel()
	if _, err := b.manager.Publish(bounded, b.volume(b.pod("u2"), "vol-none")); err == nil {
		t.Error("a volume that is not attached was published")
	}
	if err := errors.Join(b.manager.Unpublish(t.Context(), "u1"), b.manager.Unpublish(t.Context(), "u2")); err != nil {
		t.Error(err)
	}
	b.clean()
}

// TestDriversComeAndGo: the newest of two of one name counts, and the older one when that goes; names that lead elsewhere and
// volumes of a kubelet are left alone.
func TestDriversComeAndGo(t *testing.T) {
	b := newBench(t)
	foreign := b.dir + "/pods/u9/volumes/kubernetes.io~csi/pv"
	if err := errors.Join(os.MkdirAll(foreign, 0o755), os.WriteFile(foreign+"/"+dataFile,
		[]byte(`{"driverName":"`+name+`","volumeHandle":"x","specVolID":"pv","nodeName":"n1"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	stopFirst := b.stopDriver
	b.startDriver("b.sock")
	at := func(file string) func() bool {
		return func() bool {
			d, err := b.manager.driver(name)
			return err == nil && strings.HasSuffix(d.endpoint, file)
		}
	}
	eventually.True(t, 20*time.Second, "the second counts", at("b.sock"))
	b.stopDriver()
	eventually.True(t, 20*time.Second, "the first counts", at("a.sock"))
	labels, annotations := b.manager.Marks()
	if labels[csidriver.Topology] != node || annotations[NodeIDs] != `{"`+name+`":"n1"}` {
		t.Errorf("marks %v %v", labels, annotations)
	}
	n := b.manager.wanted(&storagev1.CSINode{}, "uid")
	want := `{"metadata":{"name":"n1","annotations":{"lockstep.dev/csi-controllers":"dir.csi.example.org"},"ownerReferences":` +
		`[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"uid"}]},"spec":{"drivers":[{"name":"dir.csi.example.org","nodeID":"n1",` +
		`"topologyKeys":["topology.csi.example.org/node"],"allocatable":{"count":7}}]},"status":{}}`
	if data, err := json.Marshal(n); err != nil || string(data) != want {
		t.Errorf("CSINode %s: %v", data, err)
	}
	stopFirst()
	b.stopDriver = func() {}
	b.registered(false)
	for _, bad := range []string{"../x", "", "A.B", strings.Repeat("a", 64)} {
		if checkName(bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	if _, err := os.Stat(foreign + "/" + dataFile); err != nil {
		t.Error(err)
	}
}

// TestController reaches a driver's controller through the node, where it has one: that of the driver itself, or a pod's, whose
// namespace the CSIDriver names.
func TestController(t *testing.T) {
	b := newBench(t)
	b.startNode()
	mux := http.NewServeMux()
	mux.Handle("POST /csi/{driver}", b.manager)
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	ask := func() (string, error) {
		conn, err := connect(func(context.Context) (net.Conn, error) { return relayed(t, server, name) })
		if err != nil {
			return "", err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := csipb.NewControllerClient(conn).GetCapacity(ctx, &csipb.GetCapacityRequest{})
		return fmt.Sprint(r.GetAvailableCapacity()), err
	}
	if _, err := ask(); err == nil || !strings.Contains(err.Error(), "no controller of CSI driver "+name+" is on this node") {
		t.Errorf("without a controller: %v", err)
	}
	dir := t.TempDir()
	d, err := csidriver.New(csidriver.Options{Name: name, Node: node, Dir: b.disk, Attach: true, Controller: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := csidriver.Listen(dir + "/csi.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, l) }()
	socket := Socket{UID: "u1", Namespace: "kube-system", Dir: dir, File: "csi.sock"}
	_, err = b.manager.identify(t.Context(), socket)
	if err == nil || !strings.Contains(err.Error(), "does not name namespace kube-system") {
		t.Errorf("a namespace that is not named: %v", err)
	}
	b.mu.Lock()
	b.object.Annotations = map[string]string{kinds.CSINamespace: "kube-system"}
	b.offers = []Socket{socket}
	b.mu.Unlock()
	eventually.True(t, 20*time.Second, "the controller is found", func() bool {
		return slices.Equal(b.manager.Controllers(), []string{name})
	})
	if got, err := ask(); err != nil || got != "107374182400" {
		t.Errorf("the controller answers %s: %v", got, err)
	}
	if err := os.Symlink(dir+"/csi.sock", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := (Socket{Dir: dir, File: "link"}).open(t.Context()); err == nil {
		t.Error("a link was followed")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// relayed is a connection to a controller, as the control plane makes one.
func relayed(t *testing.T, server *httptest.Server, driver string) (net.Conn, error) {
	near, far := net.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/csi/"+driver, far)
	if err != nil {
		return nil, err
	}
	answer, err := server.Client().Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		text := make([]byte, 200)
		n, _ := answer.Body.Read(text)
		answer.Body.Close()
		return nil, errors.New(string(text[:n]))
	}
	go func() {
		buffer := make([]byte, 1<<10)
		for {
			n, err := answer.Body.Read(buffer)
			if _, failed := far.Write(buffer[:n]); err != nil || failed != nil {
				far.Close()
				answer.Body.Close()
				return
			}
		}
	}()
	return near, nil
}

// TestRemove: a reset needs no driver, and leaves what is not the node's.
func TestRemove(t *testing.T) {
	b := newBench(t)
	b.startNode()
	b.startDriver("a.sock")
	b.registered(true)
	id := b.make("one")
	path, err := b.manager.Publish(t.Context(), b.volume(b.pod("u1"), id))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"/file", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.stopNode()
	b.stopDriver()
	for range 2 {
		if err := Remove(b.dir); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.mounts(); n > 0 {
		t.Errorf("%d mounts are left", n)
	}
	var left []string
	_ = filepath.WalkDir(b.dir, func(path string, e os.DirEntry, _ error) error {
		left = append(left, strings.TrimPrefix(path, b.dir))
		return nil
	})
	if want := []string{"", "/plugins", "/plugins/" + name}; !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
	if files, err := filepath.Glob(b.disk + "/volumes/*/data/file"); err != nil || len(files) != 1 {
		t.Errorf("the data is %v: %v", files, err)
	}
}

// TestAllowed: what a driver says of where it is cannot be any label of the node.
func TestAllowed(t *testing.T) {
	got := allowed(map[string]string{"topology.ebs.example.com/zone": "a", "topology.kubernetes.io/zone": "a",
		"no label": "a", "long": strings.Repeat("a", 64),
		"node-role.kubernetes.io/control-plane": "", "lockstep.dev/node": "n2", "x.node-restriction.kubernetes.io/y": "a"})
	want := []string{"topology.ebs.example.com/zone", "topology.kubernetes.io/zone"}
	if !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestUsage: a driver is asked what a volume takes, at where it is published; one that hangs, ends with who asks.
func TestUsage(t *testing.T) {
	b := newBench(t)
	b.startNode()
	v := b.volume(b.pod("u1"), b.make("one"))
	if _, err := b.manager.Usage(t.Context(), v); err == nil {
		t.Error("a driver that is away says what it takes")
	}
	b.startDriver("a.sock")
	b.registered(true)
	if _, err := b.manager.Usage(t.Context(), v); status.Code(err) != codes.NotFound {
		t.Errorf("it is not published: %v", err)
	}
	if _, err := b.manager.Publish(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	got, err := b.manager.Usage(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if *got.UsedBytes != 4096 || *got.CapacityBytes != 0 || *got.AvailableBytes != 0 || *got.Inodes != 1000 || *got.InodesFree != 999 ||
		*got.InodesUsed != 1 || got.Time.IsZero() {
		t.Errorf("%+v", got)
	}
	b.faults("NodeGetVolumeStats hang")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := b.manager.Usage(ctx, v); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("it hangs: %v", err)
	}
	b.faults("")
	b.manager.mu.Lock()
	delete(b.manager.drivers[name].capable, csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	b.manager.mu.Unlock()
	before := b.calls("NodeGetVolumeStats")
	if _, err := b.manager.Usage(t.Context(), v); !errors.Is(err, ErrNoUsage) || b.calls("NodeGetVolumeStats") != before {
		t.Errorf("a driver that cannot say: %v", err)
	}
	if err := b.manager.Unpublish(t.Context(), "u1"); err != nil {
		t.Error(err)
	}
	b.clean()
}

// TestInfo: a driver that says more of its node than CSI allows is not registered. The Node has all of it.
func TestInfo(t *testing.T) {
	segments := map[string]string{}
	for i := range 300 {
		segments[fmt.Sprintf("example.com/zone-%03d", i)] = "z" // 20 bytes and 1
	}
	few := map[string]string{"example.com/zone": strings.Repeat("z", maxTopology-len("example.com/zone"))}
	in := func(segments map[string]string) *csipb.NodeGetInfoResponse {
		return &csipb.NodeGetInfoResponse{NodeId: strings.Repeat("x", maxID), AccessibleTopology: &csipb.Topology{Segments: segments}}
	}
	for want, info := range map[string]*csipb.NodeGetInfoResponse{
		"the driver has no ID for this node":                                   {},
		"the driver's ID for this node has 257 bytes, and may have 256":        {NodeId: strings.Repeat("x", maxID+1)},
		"the driver's topology of this node has 6300 bytes, and may have 4096": in(segments),
		"": in(few),
	} {
		if err := checkInfo(info); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestAnswers: what a driver leaves out is zero, and less than nothing is nothing.
func TestAnswers(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	if _, err := usage(&csipb.NodeGetVolumeStatsResponse{}, at); err == nil ||
		err.Error() != "failed to get usage from response. usage is nil" {
		t.Error(err)
	}
	got, err := usage(&csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{nil, {Total: 5},
		{Unit: csipb.VolumeUsage_BYTES, Available: -1, Total: 10, Used: 11}}}, at)
	if err != nil || *got.AvailableBytes != 0 || *got.CapacityBytes != 10 || *got.UsedBytes != 11 || *got.Inodes != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
