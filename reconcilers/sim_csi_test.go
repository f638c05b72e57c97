package reconcilers

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/drivers"
	"lockstep/reconcilers/engine"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

const csiName = "disks.example.com"

// csiWorld is a cluster in memory: its loops, a driver, and nodes that use what is attached. It is of one bubble of synctest.
type csiWorld struct {
	t     *testing.T
	store *memory.Store
	fake  *csiFake
	dial  func(ctx context.Context, node, driver string) (net.Conn, error)

	loops, controller func() // stop them
	mu                sync.Mutex
	intercept         func(store.Group) error
	told              []string
}

// Event implements store.Recorder.
func (w *csiWorld) Event(component string, about kinds.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprintf("%s %s %s %s: %s", component, kinds.Of(about).Kind, kind, reason, message))
}

func newCSIWorld(t *testing.T) *csiWorld {
	w := &csiWorld{t: t, fake: newCSIFake(csiName)}
	w.store = memory.NewWith(memory.Options{Default: strategy.Default, Intercept: func(g store.Group) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.intercept != nil {
			return w.intercept(g)
		}
		return nil
	}})
	dial, stop := w.fake.serve()
	w.dial = dial
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	for _, zone := range []string{"a", "b"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n" + zone, Labels: map[string]string{"zone": zone}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		w.put(n)
		w.put(&storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, Annotations: map[string]string{kinds.CSIControllers: csiName}},
			Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
				{Name: csiName, NodeID: "id-" + n.Name, TopologyKeys: []string{"zone"}},
			}},
		})
	}
	yes := true
	w.put(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: csiName}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}})
	w.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "key"}, Data: map[string][]byte{"k": []byte("v")}})
	w.put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: csiName, AllowVolumeExpansion: &yes,
		Parameters: map[string]string{"speed": "high", "csi.storage.k8s.io/fstype": "ext4",
			"csi.storage.k8s.io/provisioner-secret-name": "key", "csi.storage.k8s.io/provisioner-secret-namespace": "${pvc.namespace}"}})
	e := engine.New(All(Options{}), engine.Options{Store: w.store, Commit: w.store, Events: w.store})
	w.loops = w.run(e.Run)
	w.start()
	t.Cleanup(func() {
		w.controller()
		w.loops()
		stop()
	})
	return w
}

func (w *csiWorld) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	return func() { cancel(); <-ended }
}

func (w *csiWorld) start() {
	w.controller = w.run(drivers.New(drivers.Options{
		Store: w.store, Commit: w.store, Events: w, Dial: w.dial, Log: slog.New(slog.DiscardHandler),
	}).Run)
}

func (w *csiWorld) put(o kinds.Object) {
	w.t.Helper()
	status := o.DeepCopyObject().(kinds.Object)
	strategy.Default(o)
	if errs := strategy.PrepareCreate(o); len(errs) > 0 {
		w.t.Fatal(errs)
	}
	if n, ok := o.(*corev1.Node); ok {
		n.Status = status.(*corev1.Node).Status
	}
	w.commit(store.Write{Key: kinds.KeyOf(o), Object: o, Reason: "test"})
}

func (w *csiWorld) commit(write store.Write) {
	w.t.Helper()
	if r := w.store.Commit(w.t.Context(), store.Group{write})[0]; r.Err != nil {
		w.t.Fatal(r.Err)
	}
}

// changeIn changes an object whatever happens to it meanwhile; one that is gone stays so.
func changeIn[T kinds.Object](w *csiWorld, namespace, name string, f func(T)) {
	w.t.Helper()
	for {
		o, ok := view.Get[T](w.store.View(), namespace, name)
		if !ok {
			return
		}
		next := o.DeepCopyObject().(T)
		f(next)
		write := store.Write{Key: kinds.KeyOf(o), Object: next, If: kinds.Revision(o), Reason: "test"}
		if r := w.store.Commit(w.t.Context(), store.Group{write})[0]; r.Err == nil {
			return
		}
	}
}

// removeIn deletes as Kubernetes does.
func removeIn[T kinds.Object](w *csiWorld, namespace, name string) {
	for {
		o, ok := view.Get[T](w.store.View(), namespace, name)
		if !ok {
			return
		}
		next, gone := strategy.Delete(o, time.Now(), new(int64))
		write := store.Write{Key: kinds.KeyOf(o), If: kinds.Revision(o), Reason: "test"}
		if !gone {
			write.Object = next
		}
		if next == nil && !gone {
			return
		}
		if r := w.store.Commit(w.t.Context(), store.Group{write})[0]; r.Err == nil {
			return
		}
	}
}

func (w *csiWorld) claim(name, node string) {
	class := "disks"
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	c.Spec.StorageClassName = &class
	if node != "" {
		c.Annotations = map[string]string{volume.AnnSelectedNode: node}
	}
	w.put(c)
}

func (w *csiWorld) pod(name, node, claim string) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.NodeName = node
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "a"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	w.put(p)
}

// until waits, at most as long as a failure's longest pause allows.
func (w *csiWorld) until(what string, ok func(v *view.View) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Hour); ; time.Sleep(100 * time.Millisecond) {
		if ok(w.store.View()) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not in time: %s\n%s", what, w.dump())
		}
	}
}

func (w *csiWorld) dump() string {
	var out strings.Builder
	v := w.store.View()
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		fmt.Fprintf(&out, "pv %s %s %v deleted=%v\n", pv.Name, pv.Status.Phase, pv.Finalizers, pv.DeletionTimestamp)
	}
	for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		fmt.Fprintf(&out, "pvc %s %s %v %v deleted=%v\n", c.Name, c.Status.Phase, c.Finalizers, c.Annotations, c.DeletionTimestamp)
	}
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		fmt.Fprintf(&out, "va %s %+v %v deleted=%v\n", a.Spec.NodeName, a.Status, a.Finalizers, a.DeletionTimestamp)
	}
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	fmt.Fprintf(&out, "disks %d\n", len(w.fake.disks))
	return out.String()
}

func (w *csiWorld) volumeOf(claim string) *corev1.PersistentVolume {
	c, ok := view.Get[*corev1.PersistentVolumeClaim](w.store.View(), "shop", claim)
	if !ok {
		return nil
	}
	pv, _ := view.Get[*corev1.PersistentVolume](w.store.View(), "", c.Spec.VolumeName)
	return pv
}

func claimBound(claim string) func(*view.View) bool {
	return func(v *view.View) bool {
		c, ok := view.Get[*corev1.PersistentVolumeClaim](v, "shop", claim)
		return ok && c.Status.Phase == corev1.ClaimBound
	}
}

func noneOf[T kinds.Object](v *view.View) bool { return v.Len(kinds.For[T]().GroupResource()) == 0 }

// TestCSILife: a claim gets a volume, which is attached, grows, is detached and deleted, each by the driver.
func TestCSILife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCSIWorld(t)
		w.claim("data", "nb")
		w.until("bound", claimBound("data"))
		pv := w.volumeOf("data")
		if got := pv.Spec.CSI; got.Driver != csiName || got.FSType != "ext4" || got.VolumeAttributes["made"] != "yes" ||
			got.VolumeHandle != "id-"+pv.Name || pv.Annotations["volume.kubernetes.io/provisioner-deletion-secret-name"] != "key" ||
			pv.Annotations["volume.kubernetes.io/provisioner-deletion-secret-namespace"] != "shop" {
			t.Errorf("the volume is %+v", pv)
		}
		if at := pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]; at.Key != "zone" || at.Values[0] != "b" {
			t.Errorf("it is in %v", at)
		}
		w.fake.mu.Lock()
		r := w.fake.order
		if w.fake.secret["k"] != "v" || len(r.Parameters) != 1 || r.Parameters["speed"] != "high" ||
			r.CapacityRange.RequiredBytes != 1<<30 || len(r.AccessibilityRequirements.Requisite) != 2 ||
			r.AccessibilityRequirements.Preferred[0].Segments["zone"] != "b" {
			t.Errorf("asked for %v", r)
		}
		w.fake.mu.Unlock()

		w.pod("web", "nb", "data")
		w.until("attached", func(v *view.View) bool {
			n, _ := view.Get[*corev1.Node](v, "", "nb")
			return len(n.Status.VolumesAttached) == 1
		})
		a, _ := view.Get[*storagev1.VolumeAttachment](w.store.View(), "", kinds.AttachmentName(pv.Spec.CSI, "nb"))
		if a.Status.AttachmentMetadata["device"] != "/dev/"+pv.Name || a.Annotations["csi.alpha.kubernetes.io/node-id"] != "id-nb" {
			t.Errorf("the attachment is %+v", a)
		}

		changeIn(w, "shop", "data", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
		})
		w.until("grown", func(v *view.View) bool {
			c, _ := view.Get[*corev1.PersistentVolumeClaim](v, "shop", "data")
			size := c.Status.Capacity[corev1.ResourceStorage]
			return size.Value() == 3<<30 && len(c.Status.Conditions) == 0
		})
		if size := w.volumeOf("data").Spec.Capacity[corev1.ResourceStorage]; size.Value() != 3<<30 {
			t.Errorf("the volume has %v", size)
		}

		// The node uses it until it has unmounted it.
		changeIn(w, "", "nb", func(n *corev1.Node) {
			n.Status.VolumesInUse = []corev1.UniqueVolumeName{kinds.CSIVolumeName(pv.Spec.CSI)}
		})
		removeIn[*corev1.Pod](w, "shop", "web")
		time.Sleep(20 * time.Minute)
		if w.fake.said("detach id-" + pv.Name + " id-nb") {
			t.Error("it was detached from a node that uses it")
		}
		changeIn(w, "", "nb", func(n *corev1.Node) { n.Status.VolumesInUse = nil })
		w.until("detached", noneOf[*storagev1.VolumeAttachment])

		removeIn[*corev1.PersistentVolumeClaim](w, "shop", "data")
		w.until("deleted", noneOf[*corev1.PersistentVolume])
		w.until("no claim", noneOf[*corev1.PersistentVolumeClaim])
		if len(w.fake.disks) > 0 || len(w.fake.wrong) > 0 {
			t.Errorf("left: %v, wrong: %v", w.fake.disks, w.fake.wrong)
		}
		w.until("capacity", func(v *view.View) bool {
			n := 0
			for c := range view.List[*storagev1.CSIStorageCapacity](v, "kube-system") {
				if c.StorageClassName == "disks" && c.Capacity.Value() == 7<<30 && c.MaximumVolumeSize.Value() == 2<<30 &&
					len(c.NodeTopology.MatchLabels["zone"]) == 1 {
					n++
				}
			}
			return n == 2
		})
		removeIn[*storagev1.StorageClass](w, "", "disks")
		w.until("no capacity", noneOf[*storagev1.CSIStorageCapacity])
		w.mu.Lock()
		defer w.mu.Unlock()
		want := []string{
			csiName + ` PersistentVolumeClaim Normal Provisioning: External provisioner is provisioning volume for claim "shop/data"`,
			csiName + " PersistentVolumeClaim Normal ProvisioningSucceeded: Successfully provisioned volume " + pv.Name,
			`attachdetach-controller Pod Normal SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "` + pv.Name + `" `,
			"external-resizer " + csiName + " PersistentVolumeClaim Normal Resizing: External resizer is resizing volume " + pv.Name,
			"external-resizer " + csiName + " PersistentVolumeClaim Normal VolumeResizeSuccessful: Resize volume succeeded",
		}
		if !slices.Equal(w.told, want) {
			t.Errorf("told:\n%s", strings.Join(w.told, "\n"))
		}
	})
}

// TestCSIFaults: whatever fails, hangs, is done and not told, or dies, no volume is lost, is of two nodes, or is left.
func TestCSIFaults(t *testing.T) {
	for seed := range short.Of(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			w := newCSIWorld(t)
			faulty := true
			w.fake.fault = func(ctx context.Context, call string) (before, after error) {
				w.mu.Lock()
				n := r.IntN(10)
				on := faulty
				w.mu.Unlock()
				switch {
				case !on:
				case n == 0:
					return status.Error(codes.Internal, "it failed"), nil
				case n == 1:
					return nil, status.Error(codes.Unavailable, "it was done")
				case n == 2:
					<-ctx.Done()
					return nil, ctx.Err()
				case n == 3 && !w.fake.has(call):
					return status.Error(codes.ResourceExhausted, "it is full"), nil
				case n == 4:
					return status.Error(codes.Aborted, "it is at it"), nil
				}
				return nil, nil
			}
			w.mu.Lock()
			w.intercept = func(store.Group) error {
				if faulty && r.IntN(20) == 0 {
					return store.ErrUnavailable
				}
				return nil
			}
			w.mu.Unlock()
			try := func(f func()) { // the csiWorld's own writes do not fail
				w.mu.Lock()
				was := w.intercept
				w.intercept = nil
				w.mu.Unlock()
				f()
				w.mu.Lock()
				w.intercept = was
				w.mu.Unlock()
			}
			next := 0
			for range 25 {
				w.mu.Lock()
				n, claim, node := r.IntN(8), fmt.Sprintf("c%d", r.IntN(4)), []string{"na", "nb"}[r.IntN(2)]
				pause := time.Duration(r.IntN(40)) * time.Second
				w.mu.Unlock()
				try(func() {
					switch _, there := view.Get[*corev1.PersistentVolumeClaim](w.store.View(), "shop", claim); n {
					case 0, 1, 2:
						if !there {
							w.claim(claim, "")
						}
					case 3:
						removeIn[*corev1.PersistentVolumeClaim](w, "shop", claim)
					case 4, 5:
						next++
						w.pod(fmt.Sprintf("p%d", next), node, claim)
					case 6:
						for p := range view.List[*corev1.Pod](w.store.View(), "shop") {
							removeIn[*corev1.Pod](w, "shop", p.Name)
							break
						}
					case 7:
						w.controller()
						w.start()
					}
				})
				time.Sleep(pause)
			}
			w.mu.Lock()
			faulty, w.intercept = false, nil
			w.mu.Unlock()
			for p := range view.List[*corev1.Pod](w.store.View(), "shop") {
				removeIn[*corev1.Pod](w, "shop", p.Name)
			}
			w.until("nothing attached", noneOf[*storagev1.VolumeAttachment])
			w.until("all bound", func(v *view.View) bool {
				for c := range view.List[*corev1.PersistentVolumeClaim](v, "shop") {
					if c.DeletionTimestamp == nil && c.Status.Phase != corev1.ClaimBound {
						return false
					}
				}
				return true
			})
			for c := range view.List[*corev1.PersistentVolumeClaim](w.store.View(), "shop") {
				removeIn[*corev1.PersistentVolumeClaim](w, "shop", c.Name)
			}
			w.until("nothing left", func(v *view.View) bool {
				return noneOf[*corev1.PersistentVolume](v) && noneOf[*corev1.PersistentVolumeClaim](v)
			})
			w.fake.mu.Lock()
			if len(w.fake.disks) > 0 || len(w.fake.wrong) > 0 {
				t.Errorf("seed %d: left %v, wrong %v", seed, w.fake.disks, w.fake.wrong)
			}
			w.fake.mu.Unlock()
		})
		if t.Failed() {
			return
		}
	}
}

// TestCSIHanging: a driver that hangs keeps no other one from its work.
func TestCSIHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCSIWorld(t)
		const slow = "slow.example.com"
		other := newCSIFake(slow)
		other.fault = func(ctx context.Context, _ string) (error, error) { <-ctx.Done(); return ctx.Err(), nil }
		dial, stop := other.serve()
		w.controller()
		good := w.dial
		w.dial = func(ctx context.Context, node, driver string) (net.Conn, error) {
			if driver == slow {
				return dial(ctx, node, driver)
			}
			return good(ctx, node, driver)
		}
		w.start()
		t.Cleanup(func() { w.controller(); stop(); w.controller = func() {} })
		w.put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "slow"}, Provisioner: slow})
		changeIn(w, "", "na", func(n *storagev1.CSINode) { n.Annotations[kinds.CSIControllers] += "," + slow })
		for i := range 3 * drivers.AtOnce {
			class := "slow"
			c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("slow%d", i)}}
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			c.Spec.StorageClassName = &class
			w.put(c)
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		w.claim("data", "")
		w.until("bound", claimBound("data"))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		other.mu.Lock()
		if n := len(other.calls); n != drivers.AtOnce {
			t.Errorf("%d calls at once", n)
		}
		other.mu.Unlock()
	})
}
