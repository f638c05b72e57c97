package eviction

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func parse(t *testing.T, texts Texts) Policy {
	t.Helper()
	p, err := Parse(texts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func level(available, capacity string) Level {
	return Level{resource.MustParse(available), resource.MustParse(capacity)}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		texts Texts
		want  string
	}{
		{Texts{Hard: "memory.available"}, `"memory.available" is not SIGNAL<VALUE`},
		{Texts{Hard: "memory<1Gi"}, "unsupported eviction signal memory"},
		{Texts{Hard: "memory.available<much"}, "memory.available: quantities must match the regular expression"},
		{Texts{Hard: "memory.available<-1Gi"}, `memory.available: "-1Gi" is below zero`},
		{Texts{Hard: "memory.available<0"}, "memory.available: eviction threshold memory.available must be positive: 0"},
		{Texts{Hard: "memory.available<101%"}, `memory.available: "101%" is no part of a whole`},
		{Texts{Hard: "memory.available<NaN%"}, `memory.available: "NaN%" is no part of a whole`},
		{Texts{Soft: "memory.available<1Gi"}, "grace period must be specified for the soft eviction threshold memory.available"},
		{Texts{SoftGrace: "memory.available=x"}, `memory.available: time: invalid duration "x"`},
		{Texts{Soft: "memory.available<1Gi", SoftGrace: "memory.available=0s"}, `memory.available: "0s" is not above zero`},
		{Texts{Hard: "memory.available<1Gi,memory.available<2Gi"}, "memory.available: memory.available is stated twice"},
		{Texts{Hard: "memory.available<1Gi", MinimumReclaim: "memory.available=-500Mi"}, `memory.available: "-500Mi" is below zero`},
		{Texts{Hold: -1}, "a time below zero means nothing"},
	} {
		if _, err := Parse(c.texts); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("Parse(%+v) = %v, want %s", c.texts, err, c.want)
		}
	}
	if p := parse(t, Texts{Hard: "memory.available<0%, nodefs.available<100%"}); len(p.Thresholds) != 0 {
		t.Errorf("thresholds that can never, or always, be crossed are there: %+v", p.Thresholds)
	}
	p := parse(t, Default())
	memory, disk := p.Kept(1<<30, 1000)
	if memory != 100<<20 || disk != 100 {
		t.Errorf("Kept() = %d, %d", memory, disk)
	}
}

// TestLook follows one node over minutes.
func TestLook(t *testing.T) {
	p := parse(t, Texts{
		Hard: "memory.available<100Mi,nodefs.available<10%", Soft: "memory.available<300Mi", SoftGrace: "memory.available=30s",
		MinimumReclaim: "memory.available=100Mi", Hold: 5 * time.Minute, MaxPodGrace: 20 * time.Second,
	})
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var s State
	for _, c := range []struct {
		after        time.Duration
		memory, disk string
		want         string
	}{
		{0, "1Gi", "50", "[] []"},
		{10 * time.Second, "299Mi", "50", "[MemoryPressure] []"},
		{20 * time.Second, "300Mi", "50", "[MemoryPressure] []"}, // its grace begins anew
		{30 * time.Second, "200Mi", "50", "[MemoryPressure] []"},
		{50 * time.Second, "200Mi", "50", "[MemoryPressure] []"},
		{60 * time.Second, "200Mi", "50", "[MemoryPressure] [memory.available soft]"},
		{70 * time.Second, "399Mi", "50", "[MemoryPressure] [memory.available soft]"}, // not reclaimed enough
		{80 * time.Second, "400Mi", "50", "[MemoryPressure] []"},
		{90 * time.Second, "50Mi", "9", "[DiskPressure MemoryPressure] [memory.available hard nodefs.available hard]"},
		{100 * time.Second, "1Gi", "10", "[DiskPressure MemoryPressure] []"},
		{90*time.Second + 5*time.Minute - 1, "1Gi", "50", "[DiskPressure MemoryPressure] []"},
		{90*time.Second + 5*time.Minute, "1Gi", "50", "[] []"},
	} {
		levels := Levels{MemoryAvailable: level(c.memory, "2Gi"), NodeFSAvailable: level(c.disk, "100")}
		var out Outlook
		s, out = p.Look(s, levels, start.Add(c.after))
		var short []string
		for i := range out.Shortages {
			kind := "hard"
			if out.Shortages[i].Grace > 0 {
				kind = "soft"
			}
			short = append(short, string(out.Shortages[i].Signal)+" "+kind)
		}
		if got := fmt.Sprint(out.Conditions, " ", short); got != c.want {
			t.Errorf("after %s: %s, want %s", c.after, got, c.want)
		}
	}
	if p.Relieved(Levels{MemoryAvailable: level("350Mi", "2Gi")}) || !p.Relieved(Levels{MemoryAvailable: level("400Mi", "2Gi")}) {
		t.Error("a node is relieved when what must be reclaimed has been, not before")
	}
}

func number(n uint64) *uint64 { return &n }

// candidate uses memory in MiB, of which it has asked for some.
func candidate(name string, priority int32, used, asked uint64) Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority,
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceMemory:           *resource.NewQuantity(int64(asked)<<20, resource.BinarySI),
			corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(asked)<<20, resource.BinarySI),
		}}}}, Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
	fs := func(mebibytes uint64) *statsapi.FsStats {
		return &statsapi.FsStats{UsedBytes: number(mebibytes << 20), InodesUsed: number(mebibytes)}
	}
	memory := &statsapi.MemoryStats{WorkingSetBytes: number(used << 20)}
	return Pod{p, &statsapi.PodStats{Memory: memory, ProcessStats: &statsapi.ProcessStats{ProcessCount: number(used)},
		VolumeStats: []statsapi.VolumeStats{{Name: "v", FsStats: *fs(used)}},
		Containers:  []statsapi.ContainerStats{{Name: "c", Memory: memory, Rootfs: fs(0), Logs: fs(0)}}}}
}

func TestRank(t *testing.T) {
	pods := []Pod{
		candidate("modest", 0, 50, 100),
		candidate("modest-important", 10, 50, 100),
		candidate("greedy", 0, 150, 100),
		candidate("greedier", 0, 300, 100),
		candidate("greedy-important", 10, 500, 100),
		{Object: candidate("unknown", 10, 0, 0).Object},
	}
	for signal, want := range map[Signal]string{
		MemoryAvailable:   "unknown greedier greedy greedy-important modest modest-important",
		NodeFSAvailable:   "unknown greedier greedy greedy-important modest modest-important",
		NodeFSInodesFree:  "unknown greedier greedy modest greedy-important modest-important", // nobody asks for inodes
		ImageFSAvailable:  "unknown greedier greedy modest greedy-important modest-important", // where volumes are not
		ImageFSInodesFree: "unknown greedier greedy modest greedy-important modest-important",
		PIDAvailable:      "greedier greedy modest unknown greedy-important modest-important",
	} {
		for range 3 { // whatever order they come in
			slices.Reverse(pods)
			Rank(pods, signal, false)
			var got []string
			for _, p := range pods {
				got = append(got, p.Object.Name)
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("%s:\n%s", signal, diff)
			}
		}
	}
}

func TestMessage(t *testing.T) {
	p := candidate("p", 0, 150, 100)
	hard := parse(t, Texts{Hard: "memory.available<100Mi,nodefs.available<10%,pid.available<5%"}).Thresholds
	levels := []Level{level("80Mi", "1Gi"), level("5", "100"), level("3", "100")}
	for i, want := range []string{
		"The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. " +
			"Container c was using 150Mi, request is 100Mi, has larger consumption of memory. ",
		"The node was low on resource: ephemeral-storage. Threshold quantity: 10, available: 5. ",
		"The node was low on resource: pids. Threshold quantity: 5, available: 3. ",
	} {
		if got := Message(&p, []Shortage{{hard[i], levels[i]}}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	memory := []corev1.NodeConditionType{corev1.NodeMemoryPressure}
	both := []corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodeMemoryPressure}
	plain, tolerant, critical := &corev1.Pod{}, &corev1.Pod{}, &corev1.Pod{}
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	critical.Spec.Priority = new(int32(2_000_000_000))
	for _, c := range []struct {
		conditions []corev1.NodeConditionType
		pod        *corev1.Pod
		qos        corev1.PodQOSClass
		want       string
	}{
		{nil, plain, corev1.PodQOSBestEffort, ""},
		{memory, plain, corev1.PodQOSBestEffort, "The node had condition: [MemoryPressure]. "},
		{memory, plain, corev1.PodQOSBurstable, ""},
		{memory, tolerant, corev1.PodQOSBestEffort, ""},
		{both, tolerant, corev1.PodQOSGuaranteed, "The node had condition: [DiskPressure MemoryPressure]. "},
		{both, critical, corev1.PodQOSBestEffort, ""},
	} {
		if got := Refuses(c.conditions, c.pod, c.qos); got != c.want {
			t.Errorf("Refuses(%v, %v, %s) = %q, want %q", c.conditions, c.pod.Spec, c.qos, got, c.want)
		}
	}
}
