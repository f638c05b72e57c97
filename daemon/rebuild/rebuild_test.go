package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/recall"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var born2026 = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// world is a keeper of a memory store with a clock of the test's.
type world struct {
	*Keeper
	t     *testing.T
	store *memory.Store
	nodes []string

	mu        sync.Mutex
	now       time.Time
	unsettled []string
	sized     bool
	stated    map[kinds.Key]bool
}

func newWorld(t *testing.T, nodes ...string) *world {
	w := &world{t: t, store: memory.New(), nodes: nodes, now: born2026,
		unsettled: []string{"shop"}, stated: map[kinds.Key]bool{}}
	w.Keeper = New(Options{
		Store: w.store, Cluster: store.Cluster{ID: "second", Rebuilding: true, Created: born2026},
		Nodes:     func(*view.View, time.Time) []string { return w.nodes },
		Unsettled: func(*view.View) []string { w.mu.Lock(); defer w.mu.Unlock(); return w.unsettled },
		Stated:    func(_ *view.View, k kinds.Key) bool { return w.stated[k] },
		Own:       func(k kinds.Key) bool { return k.Name == "kubernetes" },
		Sized:     func(*view.View, kinds.Key) bool { return w.sized },
		Valid:     named,
		Delete:    going,
		Now:       func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Log:       slog.New(slog.DiscardHandler),
	})
	return w
}

// named refuses one name, and changes what it is given, as Kubernetes' rules do.
func named(o kinds.Object) error {
	o.SetAnnotations(map[string]string{"touched": "yes"})
	if o.GetName() == "invalid" {
		return errors.New("it has a name that it may not have")
	}
	return nil
}

// going is an object that is being deleted: a pod gets time to end.
func going(o kinds.Object, now time.Time) (kinds.Object, bool) {
	if _, pod := o.(*corev1.Pod); !pod {
		return nil, true
	}
	o = o.DeepCopyObject().(kinds.Object)
	o.SetDeletionTimestamp(&metav1.Time{Time: now})
	return o, false
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unsettled = nil
}

func (w *world) put(objects ...kinds.Object) {
	w.t.Helper()
	for _, o := range objects {
		if r := w.store.Commit(w.t.Context(), store.Group{{Object: o, Key: kinds.KeyOf(o), If: store.Anyway}})[0]; r.Err != nil {
			w.t.Fatal(r.Err)
		}
	}
}

func (w *world) offer(node string, o recall.Offer) recall.Answer {
	w.t.Helper()
	for _, p := range o.Pods {
		o.Runs = append(o.Runs, p.UID)
	}
	o.Complete = true
	answer, err := w.Offer(w.t.Context(), node, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

// during runs f in the background until the test's context would end it, and returns what waits for its end.
func (w *world) collecting() (wait func()) {
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	go func() { ended <- w.Collect(ctx, w.store) }()
	return func() {
		w.t.Helper()
		defer cancel()
		if err := <-ended; err != nil || ctx.Err() != nil {
			w.t.Fatalf("collecting ends with %v, %v", err, ctx.Err())
		}
	}
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: never; %s", what, w.Says(w.store.View()))
		}
	}
}

func podOf(node, name string, owner *metav1.OwnerReference) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "991",
			Labels: map[string]string{"app": "x"}, CreationTimestamp: metav1.NewTime(born2026.Add(-time.Hour))},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "example.org/web:v1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.7", PodIPs: []corev1.PodIP{{IP: "10.42.0.7"}},
			StartTime: &metav1.Time{Time: born2026.Add(-time.Hour)}},
	}
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return p
}

func ownedBy(apiVersion, kind, name string) *metav1.OwnerReference {
	return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID("uid-" + name), Controller: new(true)}
}

func serviceOf(name, ip string, port int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "5"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Port: 80, NodePort: port, Protocol: corev1.ProtocolTCP}}},
	}
	return s
}

func claimOf(name, volume string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
}

func volumeOf(name, claim string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/" + name}},
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: claim,
				UID: types.UID("uid-" + claim)},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
}

func mounting(p *corev1.Pod, claim string) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	return p
}

func nodeOf(name, cidr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}}}
}

func get[T kinds.Object](w *world, namespace, name string) (o T) {
	o, _ = view.Get[T](w.store.View(), namespace, name)
	return o
}

// TestRebuild follows a rebuild from an empty store to its end.
func TestRebuild(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	wait := w.collecting()
	w.until("it asks", func() bool { return w.state(w.store.View()).Phase == collecting })
	if says := w.Says(w.store.View()); !strings.Contains(says, "waiting until 12:00:30 for what node n1, n2 runs") {
		t.Errorf("it says %q", says)
	}
	w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}) // it has registered anew already
	web := podOf("n1", "web-abc-1", ownedBy("apps/v1", "ReplicaSet", "web-abc"))
	web.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "abc"
	db := mounting(podOf("n2", "db-0", ownedBy("apps/v1", "StatefulSet", "db")), "data-db-0")
	job := podOf("n2", "once-1", ownedBy("batch/v1", "Job", "once"))
	job.Status.Phase = corev1.PodSucceeded
	a := w.offer("n1", recall.Offer{Pods: []*corev1.Pod{web, podOf("n2", "foreign", nil), podOf("n1", "invalid", nil)},
		Nodes: []*corev1.Node{nodeOf("n1", "10.42.3.0/24")}, Seen: 900})
	if !a.Rebuilding || a.Cluster {
		t.Errorf("n1 is answered %+v", a)
	}
	a = w.offer("n2", recall.Offer{Pods: []*corev1.Pod{db, job, podOf("n2", "leftover", nil)},
		Nodes:   []*corev1.Node{nodeOf("n2", "10.42.5.0/24")},
		Claims:  []*corev1.PersistentVolumeClaim{claimOf("data-db-0", "pv1"), claimOf("others", "pv2")},
		Volumes: []*corev1.PersistentVolume{volumeOf("pv1", "data-db-0"), volumeOf("pv2", "others")}, Seen: 950})
	if !a.Rebuilding {
		t.Errorf("n2 is answered %+v", a)
	}
	w.until("the one that knew most is asked", func() bool { return w.Answer("n2").Cluster && !w.Answer("n1").Cluster })
	w.offer("n1", recall.Offer{Cluster: true, Services: []*corev1.Service{serviceOf("hostile", "10.43.0.66", 30066)}})
	w.offer("n2", recall.Offer{Cluster: true, Seen: 950,
		Nodes: []*corev1.Node{nodeOf("n1", "10.42.3.0/24"), nodeOf("removed", "10.42.9.0/24")},
		Services: []*corev1.Service{serviceOf("web", "10.43.0.20", 30020), serviceOf("old", "10.43.0.21", 30021),
			serviceOf("twice", "10.43.0.20", 0), serviceOf("kubernetes", "10.43.0.1", 0)}})
	wait()

	if p := get[*corev1.Pod](w, "shop", "web-abc-1"); p == nil || p.UID != "uid-web-abc-1" || p.Status.PodIP != "10.42.0.7" ||
		p.Spec.NodeName != "n1" || p.Annotations["touched"] != "" {
		t.Errorf("the pod is %+v", p)
	}
	if p := get[*corev1.Pod](w, "shop", "once-1"); p == nil || p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the Job's pod, which it is to count again, is %+v", p)
	}
	if get[*corev1.Pod](w, "shop", "foreign") != nil || get[*corev1.PersistentVolumeClaim](w, "shop", "others") != nil ||
		get[*corev1.PersistentVolume](w, "", "pv2") != nil || get[*corev1.Service](w, "shop", "hostile") != nil ||
		get[*corev1.Node](w, "", "removed") != nil || get[*corev1.Pod](w, "shop", "invalid") != nil {
		t.Error("a node has brought what is not its own")
	}
	c, pv := get[*corev1.PersistentVolumeClaim](w, "shop", "data-db-0"), get[*corev1.PersistentVolume](w, "", "pv1")
	if c == nil || pv == nil || c.Spec.VolumeName != "pv1" || pv.Spec.ClaimRef.UID != c.UID || pv.Status.Phase != corev1.VolumeBound {
		t.Errorf("the claim and its volume are %+v, %+v", c, pv)
	}
	if n1, n2 := get[*corev1.Node](w, "", "n1"), get[*corev1.Node](w, "", "n2"); n1.UID != "uid-n1" || n1.Spec.PodCIDR != "10.42.3.0/24" ||
		n2.Spec.PodCIDR != "10.42.5.0/24" {
		t.Errorf("nodes %+v, %+v", n1, n2)
	}
	if s := get[*corev1.Service](w, "shop", "web"); s == nil || s.Spec.ClusterIP != "10.43.0.20" || s.Spec.Ports[0].NodePort != 30020 {
		t.Errorf("the service is %+v", s)
	}
	if get[*corev1.Service](w, "shop", "kubernetes") != nil {
		t.Error("a service of the cluster's own is taken from a node")
	}
	if get[*corev1.Service](w, "shop", "twice") != nil {
		t.Error("two services have one address")
	}

	// Owners come back with their uids; nothing ends meanwhile.
	sources, loops := w.Committer(w.store, Sources), w.Committer(w.store, Loops)
	made := func(c store.Committer, o kinds.Object) types.UID {
		t.Helper()
		if r := c.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(o), Object: o}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
		return w.store.View().Get(kinds.KeyOf(o)).GetUID()
	}
	if uid := made(sources, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}); uid != "uid-db" {
		t.Errorf("the set's uid is %s", uid)
	}
	if uid := made(loops, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-abc"}}); uid != "uid-web-abc" {
		t.Errorf("the ReplicaSet's uid is %s", uid)
	}
	other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
	if uid := made(sources, other); uid == "uid-db" || uid == "" {
		t.Errorf("another kind's uid is %s", uid)
	}
	drop := store.Group{{Key: kinds.KeyOf(db), If: store.Anyway}}
	released := get[*corev1.PersistentVolume](w, "", "pv1").DeepCopy()
	released.Status.Phase = corev1.VolumeReleased
	let := store.Group{{Key: kinds.KeyOf(released), Object: released, If: kinds.Revision(released)}}
	for what, g := range map[string]store.Group{"a pod": drop, "a volume": let} {
		if r := loops.Commit(t.Context(), g)[0]; !errors.Is(r.Err, errHeld) || !store.Outage(r.Err) {
			t.Errorf("%s is let go: %v", what, r.Err)
		}
	}
	// The Job is not made again by Git: its pod has an owner that is gone, and all is quiet after a while.
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx, w.store) })
	defer running.Wait()
	defer cancel()
	w.stated[kinds.KeyOf(get[*corev1.Service](w, "shop", "web"))] = true
	w.settle()
	time.Sleep(4 * look)
	if p := w.state(w.store.View()).Phase; p != syncing {
		t.Errorf("owners are missing, and it is %s", p)
	}
	if a := w.Answer("n1"); !a.Rebuilding || a.Until.IsZero() {
		t.Errorf("n1 is answered %+v", a)
	}
	w.pass(quiet + time.Second)
	w.until("it is over", func() bool { return w.over.Load() })
	if a := w.Answer("n1"); a.Rebuilding || w.Says(w.store.View()) != "" {
		t.Errorf("n1 is answered %+v, it says %q", a, w.Says(w.store.View()))
	}
	if get[*corev1.Service](w, "shop", "old") != nil {
		t.Error("a service that Git does not have any more stays")
	}
	if p := get[*corev1.Pod](w, "shop", "leftover"); p == nil || p.DeletionTimestamp == nil {
		t.Errorf("a pod that Git does not have any more is %+v", p)
	}
	if r := loops.Commit(t.Context(), drop)[0]; r.Err != nil {
		t.Errorf("when all is over: %v", r.Err)
	}
	left := 0
	for range w.store.View().Records(table, "") {
		left++
	}
	if left != 1 {
		t.Errorf("%d records are left", left)
	}
}

// TestMissingNode has a node stay away: what could run twice waits for it, all else goes on, and what it brings late is taken.
func TestMissingNode(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	wait := w.collecting()
	w.offer("n1", recall.Offer{})
	w.until("it asks", func() bool { return w.state(w.store.View()).Phase == collecting })
	w.pass(collectTime + time.Second)
	wait()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx, w.store) })
	defer running.Wait()
	defer cancel()
	w.settle()
	w.until("it waits for n2", func() bool { return w.state(w.store.View()).Phase == waiting })
	if a, says := w.Answer("n1"), w.Says(w.store.View()); a.Rebuilding || !strings.Contains(says, "without node n2") ||
		!strings.Contains(says, "lockstep node remove") {
		t.Errorf("n1 is answered %+v, it says %q", a, says)
	}
	places := w.Committer(w.store, Places)
	bind := func(name string, owner *metav1.OwnerReference) error {
		t.Helper()
		p := podOf("", name, owner)
		p.UID, p.Status = types.UID("new-"+name), corev1.PodStatus{}
		if get[*corev1.Pod](w, "shop", name) == nil {
			w.put(p)
		}
		bound := get[*corev1.Pod](w, "shop", name).DeepCopy()
		bound.Spec.NodeName = "n1"
		return places.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(bound), Object: bound, If: kinds.Revision(bound)}})[0].Err
	}
	for name, owner := range map[string]*metav1.OwnerReference{"db-0": ownedBy("apps/v1", "StatefulSet", "db"),
		"once-x": ownedBy("batch/v1", "Job", "once"), "bare": nil} {
		if err := bind(name, owner); !errors.Is(err, errHeld) {
			t.Errorf("%s is bound: %v", name, err)
		}
	}
	if err := bind("web-1", ownedBy("apps/v1", "ReplicaSet", "web")); err != nil {
		t.Errorf("a pod that may run twice is not bound: %v", err)
	}
	fresh := volumeOf("pvc-new", "data-db-0")
	r := w.Committer(w.store, Loops).Commit(t.Context(), store.Group{{Key: kinds.KeyOf(fresh), Object: fresh}})[0]
	if !errors.Is(r.Err, errHeld) {
		t.Errorf("an empty volume is made: %v", r.Err)
	}
	w.put(claimOf("data-db-0", "")) // made anew by the set, and bound to nothing
	db := mounting(podOf("n2", "db-0", ownedBy("apps/v1", "StatefulSet", "db")), "data-db-0")
	a := w.offer("n2", recall.Offer{Pods: []*corev1.Pod{db},
		Claims:  []*corev1.PersistentVolumeClaim{claimOf("data-db-0", "pv1")},
		Volumes: []*corev1.PersistentVolume{volumeOf("pv1", "data-db-0")}})
	if a.Rebuilding {
		t.Errorf("n2 is answered %+v", a)
	}
	if p := get[*corev1.Pod](w, "shop", "db-0"); p.UID != "uid-db-0" || p.Spec.NodeName != "n2" {
		t.Errorf("the pod is %s on %q", p.UID, p.Spec.NodeName)
	}
	if c := get[*corev1.PersistentVolumeClaim](w, "shop", "data-db-0"); c.Spec.VolumeName != "pv1" {
		t.Errorf("the claim has %q", c.Spec.VolumeName)
	}
	w.until("it is over", func() bool { return w.over.Load() })
	if err := bind("bare", nil); err != nil {
		t.Errorf("when all is over: %v", err)
	}
}

// TestRestored has a store of an older state: what its nodes have ended since is gone, what they run since comes, and the newer of two
// pods of one name stays.
func TestRestored(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	moved := podOf("n1", "db-0", nil)
	moved.UID = "before"
	w.put(nodeOf("n1", "10.42.0.0/24"), moved, podOf("n1", "ended", nil), podOf("n1", "web", nil))
	notBegun := podOf("n1", "not-begun", nil)
	notBegun.Status.StartTime = nil
	w.put(notBegun)
	w.offer("n2", recall.Offer{Pods: []*corev1.Pod{podOf("n2", "db-0", nil)}})
	w.offer("n1", recall.Offer{Pods: []*corev1.Pod{podOf("n1", "web", nil), podOf("n1", "since", nil)}})
	var have []string
	for p := range view.List[*corev1.Pod](w.store.View(), "") {
		have = append(have, fmt.Sprint(p.Name, " ", p.UID, " ", p.Spec.NodeName))
	}
	want := []string{"db-0 uid-db-0 n2", "not-begun uid-not-begun n1", "since uid-since n1", "web uid-web n1"}
	if !slices.Equal(have, want) {
		t.Errorf("pods %q, want %q", have, want)
	}
}

// TestReplicas: what an autoscaler has made of a Deployment is not made less.
func TestReplicas(t *testing.T) {
	w := newWorld(t, "n1")
	for i := range 4 {
		p := podOf("n1", fmt.Sprint("web-abc-", i), ownedBy("apps/v1", "ReplicaSet", "web-abc"))
		p.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "abc"
		w.put(p)
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(2))}}
	for sized, want := range map[bool]int32{false: 4, true: 2} {
		got := born(w.store.View(), owners(w.store.View()), d, func(kinds.Key) bool { return sized }).(*appsv1.Deployment)
		if *got.Spec.Replicas != want || *d.Spec.Replicas != 2 {
			t.Errorf("stated %t: %d replicas, want %d", sized, *got.Spec.Replicas, want)
		}
	}
}

// TestNothingToRebuild: where the store is the one of before, nothing is held or written.
func TestNothingToRebuild(t *testing.T) {
	w := newWorld(t, "n1")
	w.Keeper = New(Options{Store: w.store, Cluster: store.Cluster{ID: "first"}, Nodes: w.opts.Nodes,
		Now: time.Now})
	if err := w.Collect(t.Context(), w.store); err != nil || w.store.View().Revision() > 1 {
		t.Errorf("collecting: %v", err)
	}
	a := w.offer("n1", recall.Offer{Pods: []*corev1.Pod{podOf("n1", "web", nil)}})
	if a.Rebuilding || get[*corev1.Pod](w, "shop", "web") != nil {
		t.Errorf("n1 is answered %+v", a)
	}
}

// TestCollect decides from states, reports and the time alone.
func TestCollect(t *testing.T) {
	now := born2026
	until := now.Add(time.Second)
	late := now.Add(-time.Second)
	knows := map[string]told{"n1": {Seen: 3}, "n2": {Seen: 7}, "n3": {}}
	has := map[string]told{"n2": {Seen: 7, Cluster: true}}
	for name, c := range map[string]struct {
		is      state
		reports map[string]told
		missing []string
		phase   phase
		asked   string
	}{
		"begins":                   {state{}, nil, []string{"n1"}, collecting, ""},
		"waits for a node":         {state{Phase: collecting, Until: until}, knows, []string{"n4"}, collecting, ""},
		"all have told":            {state{Phase: collecting, Until: until}, knows, nil, collecting, "n2"},
		"time is up":               {state{Phase: collecting, Until: late}, knows, []string{"n4"}, collecting, "n2"},
		"nobody has told":          {state{Phase: collecting, Until: late}, nil, []string{"n4"}, syncing, ""},
		"nobody knows the cluster": {state{Phase: collecting, Until: until}, map[string]told{"n3": {}}, nil, syncing, ""},
		"waits for who is asked":   {state{Phase: collecting, Until: until, Asked: "n2"}, knows, nil, collecting, "n2"},
		"who is asked has told":    {state{Phase: collecting, Until: until, Asked: "n2"}, has, nil, syncing, ""},
		"asks the next":            {state{Phase: collecting, Until: late, Asked: "n2"}, knows, nil, collecting, "n1"},
		"asks nobody twice":        {state{Phase: collecting, Until: late, Asked: "n1", Tried: []string{"n2"}}, knows, nil, syncing, ""},
	} {
		if got := collect(c.is, c.reports, c.missing, now); got.Phase != c.phase || got.Asked != c.asked {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
