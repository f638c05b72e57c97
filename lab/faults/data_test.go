package faults

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/lab"
)

// keepers are how many replicas a set of those that keep data has at most.
const keepers = 3

// data is two StatefulSets with claims of the default class, of which at most one is stated, and who writes to their pods.
type data struct {
	*world
	host *lab.Host
	// set, replicas, round and policy are what is stated; an empty set: none.
	set      string
	replicas int
	policy   string

	mu    sync.Mutex
	at    map[string]string  // addresses of pods by name
	acked map[string][]int64 // what was acknowledged, by pod
}

var setNames = []string{"keep", "store"}

// keepsData breaks what runs a StatefulSet with claims while it is scaled, renamed, removed and added again, and then wants back
// every write that was acknowledged, and each claim that there ever was.
func (w *world) keepsData(n int) {
	d := &data{world: w, host: w.agents[1], at: map[string]string{}, acked: map[string][]int64{}}
	ctx, cancel := context.WithCancel(w.ctx)
	var writers sync.WaitGroup
	stop := func() { cancel(); writers.Wait() }
	defer stop()
	for _, set := range setNames {
		for i := range keepers {
			writers.Go(func() { d.writer(ctx, fmt.Sprintf("%s-%d", set, i)) })
		}
	}
	claims := map[string]types.UID{}
	for _, set := range setNames {
		d.set, d.replicas = set, keepers
		d.push()
		d.settle("the set " + set)
		d.written()
		d.same(claims)
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"agent killed", func() { d.restart(d.host, lab.Agent) }},
		{"containerd killed", func() { d.restart(d.host, lab.Containerd) }},
		{"daemon killed", func() { d.restart(d.lab.Server(), lab.Daemon) }},
		{"node rebooted", func() {
			if err := d.lab.Reboot(d.ctx, d.host); err != nil {
				d.t.Fatal(err)
			}
		}},
	}
	pushes := []struct {
		name string
		do   func()
	}{
		{"scaled", func() { d.replicas = d.random.IntN(keepers + 1) }},
		{"renamed", func() { d.set, d.replicas = setNames[(slices.Index(setNames, d.set)+1)%len(setNames)], keepers }},
		{"removed", func() { d.set = "" }},
		{"asked to delete its claims, without the trailer", func() { d.policy, d.replicas = "Delete", 0 }},
	}
	for i := range n {
		push, fault := pushes[d.random.IntN(len(pushes))], faults[d.random.IntN(len(faults))]
		began, had := time.Now(), d.replicas
		push.do()
		d.push()
		if d.policy != "" && had > 0 {
			d.held(had)
		}
		sleep.For(d.ctx, time.Duration(d.random.IntN(2500))*time.Millisecond)
		fault.do()
		d.policy = ""
		if d.set == "" {
			d.set = setNames[d.random.IntN(len(setNames))]
		}
		if d.random.IntN(2) == 0 {
			d.replicas = keepers
		}
		d.push()
		d.settle(fmt.Sprintf("the set that was %s, %s", push.name, fault.name))
		d.same(claims)
		w.t.Logf("%2d: %s, %s: %d of %s settled after %d ms", i, push.name, fault.name, d.replicas, d.set, time.Since(began).Milliseconds())
	}
	stop()
	total := 0
	for _, set := range setNames {
		d.set, d.replicas = set, keepers
		d.push()
		d.settle("the set " + set)
		for i := range keepers {
			total += d.verify(fmt.Sprintf("%s-%d", set, i))
		}
	}
	d.same(claims)
	d.onDisk(len(setNames) * keepers)
	w.t.Logf("%d faults, %d acknowledged writes are there", n, total)
	if total == 0 {
		w.t.Error("nothing was ever acknowledged")
	}
}

// keeping is how the spec of a set ends whose pods keep lines in a claim of that size each.
func keeping(size string) string {
	return `      containers:
      - name: main
        image: ` + loadImage + `
        args: [keep, /data/lines]
        resources: {requests: {cpu: 10m}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: ` + size + `}}}
`
}

// push states the set.
func (d *data) push() {
	d.t.Helper()
	text := "# none\n"
	if d.set != "" {
		policy := ""
		if d.policy != "" {
			policy = "  persistentVolumeClaimRetentionPolicy: {whenScaled: " + d.policy + ", whenDeleted: " + d.policy + "}\n"
		}
		text = fmt.Sprintf(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: %[3]d
  serviceName: keepers
  podManagementPolicy: Parallel
%[4]s  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %[5]s}
      terminationGracePeriodSeconds: 1
%[6]s`, d.set, namespace, d.replicas, policy, d.host.Name, keeping("1Gi"))
	}
	d.world.write("keepers.yaml", text)
}

// settle waits until the set that is stated runs, and the pods of no other.
func (d *data) settle(what string) {
	d.t.Helper()
	d.await(what, func() (bool, string) {
		sets, err := d.client.AppsV1().StatefulSets(namespace).List(d.ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		if len(sets.Items) != 1 || sets.Items[0].Name != d.set {
			return false, fmt.Sprintf("there are %d sets", len(sets.Items))
		}
		set, want := sets.Items[0], int32(d.replicas)
		s := set.Status
		if *set.Spec.Replicas != want || s.ObservedGeneration != set.Generation || s.Replicas != want || s.AvailableReplicas != want {
			return false, fmt.Sprintf("%s wants %d, has %d, %d available", set.Name, *set.Spec.Replicas, s.Replicas, s.AvailableReplicas)
		}
		selected := metav1.ListOptions{LabelSelector: "app in (" + strings.Join(setNames, ", ") + ")"}
		pods, err := d.client.CoreV1().Pods(namespace).List(d.ctx, selected)
		if err != nil || len(pods.Items) != d.replicas {
			return false, fmt.Sprint(len(pods.Items), " pods ", err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.at)
		for _, p := range pods.Items {
			d.at[p.Name] = p.Status.PodIP
		}
		return true, ""
	})
}

// held waits until the source tells that what is stated is held, for so many claims.
func (d *data) held(claims int) {
	d.t.Helper()
	want := fmt.Sprintf("held: would delete the data of %d claim", claims)
	d.await("a source that is held", func() (bool, string) {
		raw, err := d.client.RESTClient().Get().AbsPath("/apis/lockstep.dev/v1alpha1/sources").DoRaw(d.ctx)
		return err == nil && strings.Contains(string(raw), want), fmt.Sprintf("%.2000s %v", raw, err)
	})
}

// written waits until each replica has acknowledged something.
func (d *data) written() {
	d.t.Helper()
	d.await("writes to "+d.set, func() (bool, string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for i := range d.replicas {
			if name := fmt.Sprintf("%s-%d", d.set, i); len(d.acked[name]) == 0 {
				return false, name + " has acknowledged nothing"
			}
		}
		return true, ""
	})
}

// same fails if a claim is gone, or is another one, and takes in those that are new.
func (d *data) same(claims map[string]types.UID) {
	d.t.Helper()
	var list *corev1.PersistentVolumeClaimList
	d.await("the list of claims", func() (ok bool, why string) {
		var err error
		list, err = d.client.CoreV1().PersistentVolumeClaims(namespace).List(d.ctx, metav1.ListOptions{})
		return err == nil, fmt.Sprint(err)
	})
	now := map[string]types.UID{}
	for _, c := range list.Items {
		if c.DeletionTimestamp == nil {
			now[c.Name] = c.UID
		}
	}
	for name, uid := range claims {
		if now[name] != uid {
			d.t.Fatalf("claim %s is gone, and nobody has asked for that", name)
		}
	}
	for name, uid := range now {
		claims[name] = uid
	}
}

// onDisk wants so many volumes, each a directory of the host that has what its pod has kept: the provisioner made them, for whom the
// class's policy, Delete, is an order to remove it.
func (d *data) onDisk(want int) {
	d.t.Helper()
	volumes, err := d.client.CoreV1().PersistentVolumes().List(d.ctx, metav1.ListOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	if len(volumes.Items) != want {
		d.t.Errorf("there are %d volumes, want one for each of %d claims", len(volumes.Items), want)
	}
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		if kinds.LocalPathOf(pv) != d.host.Name || pv.Status.Phase != corev1.VolumeBound ||
			pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			d.t.Errorf("volume %s is of %q, %s, %s", pv.Name, kinds.LocalPathOf(pv), pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy)
			continue
		}
		if info, err := os.Stat(filepath.Join(pv.Spec.Local.Path, "lines")); err != nil || info.Size() == 0 {
			d.t.Errorf("volume %s has kept nothing: %v", pv.Name, err)
		}
	}
}

func (d *data) restart(h *lab.Host, service string) {
	d.t.Helper()
	d.killService(h, service)
	d.stayDown()
	d.startService(h, service)
}

// writer has a pod keep one number after the other, for as long as the context lasts.
func (d *data) writer(ctx context.Context, pod string) {
	client := onHost(d.host)
	for n := int64(1); ctx.Err() == nil; n++ {
		d.mu.Lock()
		addr := d.at[pod]
		d.mu.Unlock()
		if addr != "" && keeps(ctx, client, addr, pod, n) {
			d.mu.Lock()
			d.acked[pod] = append(d.acked[pod], n)
			d.mu.Unlock()
		}
		sleep.For(ctx, 20*time.Millisecond)
	}
}

// keeps asks a pod to keep a number, and says whether it has said that it does.
func keeps(ctx context.Context, client *http.Client, addr, pod string, n int64) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:8080/%s/%d", addr, pod, n), nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}

// verify wants each number back that a pod has acknowledged, and returns how many these are.
func (d *data) verify(pod string) int {
	d.t.Helper()
	var kept map[string]bool
	d.await("what "+pod+" has kept", func() (bool, string) {
		d.mu.Lock()
		addr := d.at[pod]
		d.mu.Unlock()
		var err error
		kept, err = keptBy(onHost(d.host), addr)
		return err == nil, fmt.Sprint(err)
	})
	for _, n := range d.acked[pod] {
		if !kept[fmt.Sprintf("%s/%d", pod, n)] {
			d.t.Errorf("%s has lost its write %d, of %d that it acknowledged", pod, n, len(d.acked[pod]))
			break
		}
	}
	return len(d.acked[pod])
}

// keptBy are the lines that a pod has kept.
func keptBy(client *http.Client, addr string) (map[string]bool, error) {
	response, err := client.Get("http://" + addr + ":8080/lines")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", response.Status, err)
	}
	kept := map[string]bool{}
	for line := range strings.Lines(string(body)) {
		kept[strings.TrimSuffix(line, "\n")] = true
	}
	return kept, nil
}
