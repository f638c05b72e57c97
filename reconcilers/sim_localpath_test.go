package reconcilers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// disks are the directories of the nodes of a sim: what the agents make, and remove.
type disks struct {
	*sim
	has map[string]bool // by volume
	// deaf are nodes that do nothing.
	deaf map[string]bool
}

func newDisks(t *testing.T, seed uint64) *disks {
	d := &disks{sim: newSim(t, seed), has: map[string]bool{}, deaf: map[string]bool{}}
	for i := range 3 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}
		old, _ := view.Get[*corev1.Node](d.store.View(), "", node.Name)
		changed := old.DeepCopy()
		changed.Annotations = map[string]string{kinds.LocalPath: "/data/local-path"}
		changed.Labels = map[string]string{corev1.LabelHostname: node.Name}
		d.write(store.Write{Key: kinds.KeyOf(node), Object: changed, If: store.Anyway, Reason: "node"})
	}
	d.put(namespaceOf("shop"))
	late, retain := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimRetain
	d.put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Provisioner: kinds.LocalPath,
		VolumeBindingMode: &late, ReclaimPolicy: &retain})
	d.acts = d.agent
	d.check = d.safe
	d.settled()
	return d
}

// claim puts one that names no class or the class kept, whose first pod is to go to a node.
func (d *disks) claim(name, class, node string) {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name,
		Annotations: map[string]string{volume.AnnSelectedNode: node}}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if class != "" {
		c.Spec.StorageClassName = &class
	}
	d.put(c)
}

// agent makes one random step of a node: it has a claim's directory, or removes what was given up.
func (d *disks) agent() bool {
	var steps []func()
	for pv := range view.List[*corev1.PersistentVolume](d.store.View(), "") {
		if d.deaf[kinds.LocalPathOf(pv)] || kinds.LocalPathOf(pv) == "" {
			continue
		}
		bound, protected := pv.Status.Phase == corev1.VolumeBound, slices.Contains(pv.Finalizers, kinds.VolumeProtection)
		switch {
		case bound && !d.has[pv.Name]:
			steps = append(steps, func() { d.has[pv.Name] = true })
		case pv.DeletionTimestamp != nil && !bound && !protected && slices.Contains(pv.Finalizers, kinds.LocalPath):
			steps = append(steps, func() {
				if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
					delete(d.has, pv.Name)
				}
				d.write(store.Write{Key: kinds.KeyOf(pv), If: store.Anyway, Reason: "node"})
			})
		}
	}
	if len(steps) == 0 {
		return false
	}
	steps[d.rand.IntN(len(steps))]()
	return true
}

// safe wants that no claim ever has two volumes, and that what a claim has is not given up.
func (d *disks) safe() {
	d.t.Helper()
	v := d.store.View()
	of := map[string]string{}
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		ref := pv.Spec.ClaimRef
		if ref == nil {
			d.t.Fatalf("%s is of no claim", pv.Name)
		}
		if other := of[string(ref.UID)]; other != "" {
			d.t.Fatalf("%s and %s are of one claim", pv.Name, other)
		}
		of[string(ref.UID)] = pv.Name
		c, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
		if ok && c.UID == ref.UID && pv.DeletionTimestamp != nil {
			d.t.Fatalf("%s is given up, and its claim is there", pv.Name)
		}
		if pv.DeletionTimestamp != nil && pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			d.t.Fatalf("%s is given up against its policy", pv.Name)
		}
	}
}

// settled goes on until neither loops nor nodes have anything to do.
func (d *disks) settled() {
	d.t.Helper()
	quiet := 0
	for turns := 0; quiet < 8; turns++ {
		if turns > 50_000 {
			d.t.Fatal("the cluster does not settle")
		}
		wrote, looked := d.turn()
		if wrote || !looked && d.agent() {
			d.clock.Step(time.Millisecond) // events are named by their time
			quiet = 0
			continue
		} else if looked {
			continue
		}
		quiet++
		d.clock.Step(time.Second)
		d.beat()
	}
}

// TestLocalPath makes, removes and makes anew claims of one name, in any order with what loops and nodes do: in the end each claim
// has its volume on the node that was selected, what was removed is gone where its policy says so, and no other data are.
func TestLocalPath(t *testing.T) {
	for seed := range short.Of(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := newDisks(t, 9000+seed)
			d.faults = d.rand.IntN(30)
			kept := map[string]bool{} // volumes of the class kept that had data
			selected := map[string]string{}
			for range 15 {
				name, key := fmt.Sprintf("data-%d", d.rand.IntN(3)), kinds.Key{}
				key = kinds.For[*corev1.PersistentVolumeClaim]().Key("shop", name)
				if d.store.View().Get(key) == nil {
					selected[name] = fmt.Sprintf("n%d", d.rand.IntN(3))
					d.claim(name, []string{"", "kept"}[d.rand.IntN(2)], selected[name])
				} else if d.rand.IntN(3) == 0 {
					d.delete(key)
				}
				for range d.rand.IntN(40) {
					if d.rand.IntN(3) == 0 {
						d.agent()
					} else {
						d.step.Step(t.Context())
					}
				}
				for pv := range view.List[*corev1.PersistentVolume](d.store.View(), "") {
					if pv.Spec.StorageClassName == "kept" && d.has[pv.Name] {
						kept[pv.Name] = true
					}
				}
			}
			d.settled()
			v := d.store.View()
			mine := map[string]bool{}
			for c := range view.List[*corev1.PersistentVolumeClaim](v, "shop") {
				pv, ok := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName)
				if c.Status.Phase != corev1.ClaimBound || !ok || pv.Name != "pvc-"+string(c.UID) ||
					kinds.LocalPathOf(pv) != selected[c.Name] || !d.has[pv.Name] {
					t.Errorf("claim %s is %s, with %q", c.Name, c.Status.Phase, c.Spec.VolumeName)
				}
				mine[c.Spec.VolumeName] = true
			}
			for pv := range view.List[*corev1.PersistentVolume](v, "") {
				if !mine[pv.Name] && (pv.Spec.StorageClassName != "kept" || pv.Status.Phase != corev1.VolumeReleased) {
					t.Errorf("volume %s of class %s is left, %s %s", pv.Name, pv.Spec.StorageClassName, pv.Status.Phase, pv.Status.Message)
				}
			}
			for name := range d.has {
				if !mine[name] && !kept[name] {
					t.Errorf("what volume %s had is left", name)
				}
			}
			for name := range kept {
				if !d.has[name] {
					t.Errorf("what volume %s had is gone", name)
				}
			}
		})
	}
}

// TestLocalPathOfSilentNode: a volume waits for its node, and says so, whether the node fell silent before or after it was given up.
func TestLocalPathOfSilentNode(t *testing.T) {
	d := newDisks(t, 1)
	key := kinds.For[*corev1.PersistentVolumeClaim]().Key("shop", "data")
	d.claim("data", "", "n1")
	d.settled()
	d.expectEvents("ProvisioningSucceeded: Successfully provisioned volume pvc-" + string(d.store.View().Get(key).GetUID()))
	d.deaf["n1"] = true
	d.pass(45*time.Second, "n0", "n2")
	d.delete(key)
	d.pass(10*time.Second, "n0", "n2")
	volumes := func() (list []*corev1.PersistentVolume) {
		return slices.Collect(view.List[*corev1.PersistentVolume](d.store.View(), ""))
	}
	if list := volumes(); len(list) != 1 || list[0].Status.Phase != corev1.VolumeReleased || list[0].DeletionTimestamp != nil ||
		list[0].Status.Message != `waiting for node "n1", which is silent, to delete its data` || !d.has[list[0].Name] {
		t.Fatalf("volumes: %v", list)
	}
	node, _ := view.Get[*corev1.Node](d.store.View(), "", "n1")
	back := node.DeepCopy()
	back.Status.Conditions[0].Status = corev1.ConditionTrue
	d.beat()
	d.write(store.Write{Key: kinds.KeyOf(back), Object: back, If: store.Anyway, Reason: "node"})
	d.pass(5*time.Second, "n0", "n1", "n2")
	if list := volumes(); len(list) != 1 || list[0].DeletionTimestamp == nil || !d.has[list[0].Name] ||
		!strings.HasSuffix(list[0].Status.Message, "to delete its data") {
		t.Fatalf("volumes: %v", list)
	}
	delete(d.deaf, "n1")
	d.settled()
	if list := volumes(); len(list) > 0 || len(d.has) > 0 {
		t.Errorf("volumes: %v, data of %v", list, d.has)
	}
}

// TestLocalPathOfLostNode: another node is selected instead of one that is gone, and what a gone node has is given up without it.
func TestLocalPathOfLostNode(t *testing.T) {
	d := newDisks(t, 2)
	d.claim("data", "", "n7")
	d.claim("old", "", "n2")
	d.settled()
	d.expectEvents(`ProvisioningFailed: node "n7" not found`)
	c, _ := view.Get[*corev1.PersistentVolumeClaim](d.store.View(), "shop", "data")
	if c.Annotations[volume.AnnSelectedNode] != "" || c.Status.Phase != corev1.ClaimPending {
		t.Errorf("the claim: %v, %s", c.Annotations, c.Status.Phase)
	}
	d.delete(kinds.For[*corev1.PersistentVolumeClaim]().Key("shop", "old"))
	d.deaf["n2"] = true
	d.settled()
	d.write(store.Write{Key: kinds.For[*corev1.Node]().Key("", "n2"), If: store.Anyway, Reason: "test"})
	d.settled()
	for pv := range view.List[*corev1.PersistentVolume](d.store.View(), "") {
		t.Errorf("volume %s is left: %s", pv.Name, pv.Status.Message)
	}
	d.expectEvents(`VolumeFailedDelete: node "n2" not found: what it had of the volume stays there`)
	if len(d.has) != 1 {
		t.Errorf("data of %v", d.has)
	}
}
