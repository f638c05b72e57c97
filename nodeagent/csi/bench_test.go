package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
	"lockstep/internal/csidriver"
	"lockstep/internal/eventually"
)

const (
	name = "dir.csi.example.org"
	node = "n1"
)

func TestMain(m *testing.M) {
	asroot.Main("the tests of nodeagent/csi")
	apart.Main(syscall.CLONE_NEWNS)
	if err := syscall.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil { // so that the kubelet's directory is the tests' own
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// bench is a node with a driver, and a cluster that is what the test says.
type bench struct {
	*testing.T
	dir   string // the kubelet's
	disk  string // the driver's
	known map[types.UID]bool

	mu         sync.Mutex
	object     *storagev1.CSIDriver
	attached   map[string]string // nodes by handle
	secret     map[string][]byte
	events     []string
	notInUse   bool
	offline    bool
	offers     []Socket
	manager    *Manager
	stopNode   func()
	stopDriver func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: filepath.Join(t.TempDir(), "kubelet"), disk: t.TempDir(), known: map[types.UID]bool{},
		attached: map[string]string{},
		object: &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral},
			PodInfoOnMount:       new(true), FSGroupPolicy: new(storagev1.FileFSGroupPolicy)}}}
	b.stopNode, b.stopDriver = func() {}, func() {}
	t.Cleanup(func() {
		b.stopNode()
		b.stopDriver()
		if err := Remove(b.dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Driver implements Cluster, as the next do.
func (b *bench) Driver(_ context.Context, of string) (*storagev1.CSIDriver, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.offline {
		return nil, errors.New("the API is away")
	}
	if b.object == nil || of != name {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "csidrivers"}, of)
	}
	return b.object, nil
}

func (b *bench) Attachment(_ context.Context, of string) (*storagev1.VolumeAttachment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.offline {
		return nil, errors.New("the API is away")
	}
	for handle, at := range b.attached {
		if attachment(handle, name, node) == of {
			return &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{Attacher: name, NodeName: node},
				Status: storagev1.VolumeAttachmentStatus{Attached: at == node, AttachmentMetadata: map[string]string{"attached": at}}}, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "volumeattachments"}, of)
}

func (b *bench) Secret(context.Context, string, string) (*corev1.Secret, error) {
	return &corev1.Secret{Data: b.secret}, nil
}

func (b *bench) Token(_ context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return "x.eyJleHAiOjE3MDAwMDAwMDB9.y", nil
}

func (b *bench) InUse(_ context.Context, volume string) (bool, error) {
	b.mu.Lock()
	hidden := b.notInUse
	b.mu.Unlock()
	used, err := b.manager.InUse()
	return !hidden && slices.Contains(used, corev1.UniqueVolumeName(volume)), err
}

// startNode runs the node's manager, as after a start of the agent.
func (b *bench) startNode() {
	b.Helper()
	m, err := New(Options{Dir: b.dir, Node: node, Cluster: b, Changed: func() {}, Log: slog.New(slog.DiscardHandler),
		Knows: func(uid types.UID) bool { b.mu.Lock(); defer b.mu.Unlock(); return b.known[uid] },
		Sockets: func() []Socket {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.offers
		},
		Events: func(_ *corev1.Pod, _, _, message string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, message)
		}})
	if err != nil {
		b.Fatal(err)
	}
	// What drivers see as the kubelet's directory is the node's, as in their pods.
	if err := os.MkdirAll(Kubelet, 0o755); err != nil {
		b.Fatal(err)
	}
	if mounted, err := isMounted(Kubelet); err != nil {
		b.Fatal(err)
	} else if !mounted {
		if err := syscall.Mount(b.dir, Kubelet, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = syscall.Unmount(Kubelet, syscall.MNT_DETACH) })
	}
	b.manager = m
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { _ = m.Run(ctx); close(ended) }()
	b.stopNode = func() { stop(); <-ended }
}

// startDriver runs the driver, and what registers it.
func (b *bench) startDriver(file string) {
	b.Helper()
	d, err := csidriver.New(csidriver.Options{Name: name, Node: node, Dir: b.disk, Attach: true, Controller: true,
		NodeService: true, Most: 7})
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.dir, "plugins", name), 0o755); err != nil {
		b.Fatal(err)
	}
	listen := func(path string) net.Listener {
		l, err := csidriver.Listen(path)
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	socket := Kubelet + "/plugins/" + name + "/" + file
	own, reg := listen(socket), listen(Kubelet+"/plugins_registry/"+file)
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = d.Serve(ctx, own) })
	running.Go(func() { _ = (&csidriver.Registrar{Name: name, Endpoint: socket}).Serve(ctx, reg) })
	b.stopDriver = func() { stop(); running.Wait() }
}

func (b *bench) registered(want bool) {
	b.Helper()
	eventually.True(b.T, 20*time.Second, fmt.Sprint("registered: ", want), func() bool {
		_, err := b.manager.driver(name)
		return (err == nil) == want
	})
}

// make has a volume made and attached, as the control plane does.
func (b *bench) make(volume string) string {
	b.Helper()
	d, err := csidriver.New(csidriver.Options{Name: name, Node: node, Dir: b.disk, Attach: true, Controller: true, NodeService: true})
	if err != nil {
		b.Fatal(err)
	}
	can := &csipb.VolumeCapability{AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}}}
	made, err := d.CreateVolume(b.Context(), &csipb.CreateVolumeRequest{Name: volume, VolumeCapabilities: []*csipb.VolumeCapability{can}})
	if err != nil {
		b.Fatal(err)
	}
	id := made.Volume.VolumeId
	attach := &csipb.ControllerPublishVolumeRequest{VolumeId: id, NodeId: node, VolumeCapability: can}
	if _, err := d.ControllerPublishVolume(b.Context(), attach); err != nil {
		b.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attached[id] = node
	return id
}

func (b *bench) pod(uid types.UID) *corev1.Pod {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[uid] = true
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p-" + string(uid), Namespace: "shop", UID: uid}}
}

func (b *bench) volume(pod *corev1.Pod, id string) Volume {
	return Volume{Pod: pod, Name: "pv-" + id, Modes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Source: corev1.CSIPersistentVolumeSource{Driver: name, VolumeHandle: id}}
}

// mounts are those below the kubelet's directory but the one that shares it.
func (b *bench) mounts() int {
	b.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(data)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, b.dir+"/") {
			count++
		}
	}
	return count
}

func (b *bench) faults(text string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.disk, "faults"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) calls(method string) int {
	data, _ := os.ReadFile(filepath.Join(b.disk, "calls"))
	return strings.Count(string(data), method+" ")
}

func (b *bench) forget(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.known, uid)
}

func (b *bench) clean() {
	b.Helper()
	eventually.True(b.T, 20*time.Second, "nothing is mounted or kept", func() bool {
		used, err := b.manager.InUse()
		left, _ := filepath.Glob(b.dir + "/pods/*")
		staged, _ := filepath.Glob(b.dir + "/plugins/kubernetes.io/csi/*/*")
		return err == nil && len(used) == 0 && b.mounts() == 0 && len(left) == 0 && len(staged) == 0
	})
}
