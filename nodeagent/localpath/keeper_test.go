package localpath

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/nodeagent/stats"
)

// given is a volume that the cluster has given up.
func given(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	pv.DeletionTimestamp, pv.Status.Phase = &metav1.Time{Time: time.Unix(1700000000, 0)}, corev1.VolumeReleased
	return pv
}

func TestNext(t *testing.T) {
	for what, test := range map[string]struct {
		change func(*corev1.PersistentVolume)
		want   step
		why    string
	}{
		"given up": {func(*corev1.PersistentVolume) {}, remove, "its claim is gone, and its policy is Delete"},
		"released": {func(pv *corev1.PersistentVolume) { pv.DeletionTimestamp = nil }, keep, "it is not being deleted"},
		"let go":   {func(pv *corev1.PersistentVolume) { pv.Finalizers = nil }, keep, "it is not being deleted"},
		"bound": {func(pv *corev1.PersistentVolume) { pv.Status.Phase = corev1.VolumeBound }, keep,
			"it is bound, or was a moment ago"},
		"another's":     {func(pv *corev1.PersistentVolume) { pv.Labels = nil }, keep, "it is another node's"},
		"not made here": {func(pv *corev1.PersistentVolume) { pv.Annotations = nil }, keep, "it is another node's"},
		"retained": {func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}, forget, "its policy is Retain"},
		"of no policy": {func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeReclaimPolicy = "" }, forget, "its policy is "},
		"protected": {func(pv *corev1.PersistentVolume) {
			pv.Finalizers = append(pv.Finalizers, kinds.VolumeProtection)
		}, keep, "it is bound, or was a moment ago"},
	} {
		pv := given(volume("/data", "pvc-1"))
		test.change(pv)
		if got, why := next(pv, "n1"); got != test.want || why != test.why {
			t.Errorf("%s: %v %q, want %v %q", what, got, why, test.want, test.why)
		}
	}
}

// TestKeeper has a node remove what is given up, of its own and once no pod has it mounted, and tell of what takes too much.
func TestKeeper(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "local-path")
	d := Directories{Dir: dir, Node: "n1"}
	other := given(volume(dir, "pvc-other"))
	other.Labels[kinds.LocalPathNode] = "n2"
	retained := given(volume(dir, "pvc-retained"))
	retained.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	for _, name := range []string{"pvc-used", "pvc-given", "pvc-other", "pvc-retained", "pvc-stray"} {
		write(t, filepath.Join(dir, name, "file"), strings.Repeat("x", 100<<10))
	}
	absent := volume(dir, "pvc-absent")
	absent.Spec.ClaimRef = nil
	api := fake.NewClientset(absent, volume(dir, "pvc-used"),
		given(volume(dir, "pvc-given")), given(volume(dir, "pvc-never")), other, retained)
	events := record.NewFakeRecorder(100)
	block := corev1.PersistentVolumeBlock
	grows := volume(dir, "pvc-block")
	grows.Spec.VolumeMode, grows.Spec.ClaimRef = &block, nil
	write(t, d.Path("pvc-block"), "small")
	if _, err := api.CoreV1().PersistentVolumes().Create(t.Context(), grows, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var mounted atomic.Bool
	var resized sync.Map
	mounted.Store(true)
	k := New(Options{
		Directories: d, Events: func() record.EventRecorder { return events }, Log: slog.New(slog.DiscardHandler),
		Mounted: func(path string) (bool, error) { return path == d.Path("pvc-given") && mounted.Load(), nil },
		Resized: func(path string) error { resized.Store(path, true); return nil },
	})
	k.pause = 100 * time.Millisecond
	finalizers := func(name string) string {
		pv, err := api.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(pv.Finalizers, ",")
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx, api) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, f func() bool) {
		eventually.Nil(t, 30*time.Second, what, func() error {
			if !f() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	until("what was never mounted goes", func() bool { return finalizers("pvc-never") == "" })
	until("what is retained is let go", func() bool { return finalizers("pvc-retained") == "" })
	if got := finalizers("pvc-given"); got != kinds.LocalPath || !exists(filepath.Join(dir, "pvc-given", "file")) {
		t.Errorf("what is mounted is removed: finalizers %q", got)
	}
	until("a file grows", func() bool {
		info, err := os.Stat(d.Path("pvc-block"))
		_, told := resized.Load(d.Path("pvc-block"))
		return err == nil && info.Size() == 64<<10 && told
	})
	marked := func(name string) string {
		pv, err := api.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pv.Annotations[kinds.LocalPathMade]
	}
	until("what is made is noted", func() bool { return marked("pvc-used") == "true" && marked("pvc-block") == "true" })
	if got := marked("pvc-absent") + marked("pvc-other") + marked("pvc-given"); got != "" {
		t.Errorf("what is not made, another's or being deleted is noted: %q", got)
	}
	told := map[string]bool{}
	hear := func() map[string]bool {
		for len(events.Events) > 0 {
			told[<-events.Events] = true
		}
		return told
	}
	failed := "Warning VolumeFailedDelete a pod on this node has it mounted"
	until("what is mounted is told", func() bool { return hear()[failed] })
	mounted.Store(false)
	until("what is given up goes", func() bool { return finalizers("pvc-given") == "" && !exists(filepath.Join(dir, "pvc-given")) })
	for _, name := range []string{"pvc-used", "pvc-other", "pvc-retained", "pvc-stray"} {
		if !exists(filepath.Join(dir, name, "file")) {
			t.Errorf("%s is removed", name)
		}
	}
	if got := finalizers("pvc-other") + finalizers("pvc-used"); got != kinds.LocalPath+kinds.LocalPath {
		t.Errorf("finalizers of others: %q", got)
	}
	large := "Warning VolumeOverCapacity Usage "
	for text := range hear() {
		if strings.HasPrefix(text, large) &&
			strings.HasSuffix(text, "of volume pvc-used is over its capacity of 64Ki, which nothing enforces") {
			told[large] = true
		}
	}
	if !told[failed] || !told[large] || len(told) != 3 {
		t.Errorf("told: %v", told)
	}
	if n := testutil.CollectAndCount(stats.ClaimMetrics{k.Claims}, "kubelet_volume_stats_used_bytes"); n != 1 {
		t.Errorf("%d volumes are measured, want the one with a claim", n)
	}
	for name, want := range map[string]string{"capacity_bytes": "65536", "available_bytes": "0", "inodes_used": "2"} {
		text := "# HELP kubelet_volume_stats_" + name + " " + map[string]string{
			"capacity_bytes": "Capacity in bytes of the volume", "available_bytes": "Number of available bytes in the volume",
			"inodes_used": "Number of used inodes in the volume"}[name] + "\n# TYPE kubelet_volume_stats_" + name + " gauge\n" +
			"kubelet_volume_stats_" + name + `{namespace="shop",persistentvolumeclaim="data"} ` + want + "\n"
		err := testutil.CollectAndCompare(stats.ClaimMetrics{k.Claims}, strings.NewReader(text), "kubelet_volume_stats_"+name)
		if err != nil {
			t.Error(err)
		}
	}
}
