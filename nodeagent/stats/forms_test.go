package stats

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/internal/golden"
)

var trees = map[string]tree{"v1": {root: "testdata/v1"}, "v2": {root: "testdata/v2", unified: true}}

// TestCgroups: both versions tell the same of the same use, each in its own files.
func TestCgroups(t *testing.T) {
	want := used{
		cpu: 1_500_000_000, user: 1_000_000_000, system: 500_000_000, periods: 40, throttled: 4, throttledTime: 250_000_000,
		memory: 30_000_000, workingSet: 20_000_000, rss: 18_000_000, cache: 12_000_000, mapped: 4096, swap: 8192, most: 40_000_000,
		activeFile: 2_000_000, inactiveFile: 10_000_000, failcnt: 5, faults: 700, majorFaults: 3, oomKills: 1,
		processes: 2, threads: 3, disks: []disk{{"8:0", 4096, 8192, 1, 2}},
		limits: limits{shares: 512, quota: 50_000, period: 100_000, memory: 128 << 20, swap: 128 << 20},
	}
	for version, tree := range trees {
		got, err := tree.read("/pod1/web")
		if err != nil {
			t.Fatal(err)
		}
		if tree.unified {
			want.limits.shares = 500 // a weight is coarser than shares
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", version, got, want)
		}
		want.limits.shares = 512
		if nanos, err := tree.cpuTime("/pod1/web"); err != nil || nanos != want.cpu {
			t.Errorf("%s: %d %v", version, nanos, err)
		}
		for _, path := range []string{"", "/gone"} {
			if _, err := tree.read(path); err == nil {
				t.Errorf("%s: %q was read", version, path)
			}
			if _, err := tree.cpuTime(path); err == nil {
				t.Errorf("%s: the time of %q was read", version, path)
			}
		}
	}
}

// TestKernelTellsLess: what a kernel does not count is nothing, and no error.
func TestKernelTellsLess(t *testing.T) {
	for name, parse := range map[string]func(func(string) ([]byte, error)) (used, error){"v1": parse1, "v2": parse2} {
		u, err := parse(func(file string) ([]byte, error) {
			if file == "cpuacct.usage" || file == "cpu.stat" {
				return []byte("7\n"), nil
			}
			return nil, errors.New("no such file")
		})
		if err != nil || u.memory != 0 || u.disks != nil {
			t.Errorf("%s: %+v %v", name, u, err)
		}
		if _, err := parse(func(string) ([]byte, error) { return []byte("max\nx y z w\n8:0\n"), nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCores(t *testing.T) {
	if cpus, physical, sockets := cores("testdata/cpu"); cpus != 3 || physical != 2 || sockets != 1 {
		t.Errorf("%d CPUs, %d cores, %d sockets", cpus, physical, sockets)
	}
	if cpus, physical, sockets := cores("testdata/none"); cpus != 0 || physical != 0 || sockets != 1 {
		t.Errorf("%d CPUs, %d cores, %d sockets", cpus, physical, sockets)
	}
}

// fixed is a collector whose last moment has everything, measured at a known time.
func fixed(t *testing.T, version string) *Collector {
	t.Helper()
	now := time.Unix(1_800_000_000, 0).UTC()
	c := New(Options{
		NodeName: "n1", Machine: corev1.NodeSystemInfo{BootID: "boot", MachineID: "machine", SystemUUID: "system"},
		Pods: func() []Pod { return nil },
	})
	c.tree, c.now = trees[version], func() time.Time { return now }
	node, err := parseNode([]byte("cpu 1000 0 500 9000 0 0 0 0 0 0\nbtime 1799990000\n"),
		[]byte("MemTotal: 4000000 kB\nMemFree: 1000000 kB\nInactive(file): 500000 kB\nAnonPages: 800000 kB\n"+
			"SwapTotal: 1000 kB\nSwapFree: 400 kB\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Ten seconds ago half of it had been used.
	now = now.Add(-10 * time.Second)
	c.note("", node.cpu/2)
	c.note("/pod1", 2_000_000_000)
	c.note("/pod1/web", 1_000_000_000)
	now = now.Add(10 * time.Second)
	n := func(v uint64) *uint64 { return &v }
	files := &statsapi.FsStats{CapacityBytes: n(1000), AvailableBytes: n(600), UsedBytes: n(400),
		Inodes: n(100), InodesFree: n(60), InodesUsed: n(40)}
	started := now.Add(-time.Hour)
	pod := Pod{Namespace: "shop", Name: "cart", UID: "u1", StartTime: started, Cgroup: "/pod1"}
	web := Container{Name: "web", ID: "id1", Image: "example.org/web:1", StartTime: started, Cgroup: "/pod1/web"}
	ended := Container{Name: "ended", ID: "id2", Image: "example.org/other:1", StartTime: started, Cgroup: "/pod1/gone"}
	c.last = &moment{
		at: now, node: use{node, c.note("", node.cpu), true}, whole: true, fs: files, images: files, device: "/dev/sda1",
		cpus: 4, physical: 2, sockets: 1,
		links: []link{{name: "eth0", main: true, LinkStatistics: netlink.LinkStatistics{RxBytes: 5, TxBytes: 6}}},
		pods: []podUse{{
			Pod: pod, use: c.use("/pod1"), ephemeral: files,
			links: []link{{name: "eth0", main: true, LinkStatistics: netlink.LinkStatistics{
				RxBytes: 100, TxBytes: 200, RxPackets: 3, TxPackets: 4, RxDropped: 1, TxErrors: 2}}},
			containers: []containerUse{
				{Container: web, use: c.use("/pod1/web"), rootfs: files, logs: files}, {Container: ended, use: c.use("/pod1/gone")},
			},
		}},
	}
	return c
}

func get(t *testing.T, h http.HandlerFunc, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequest("GET", path, nil))
	if w.Code != 200 {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// TestForms holds what is answered of one moment in each form, for both versions of cgroups.
func TestForms(t *testing.T) {
	for version := range trees {
		c := fixed(t, version)
		summary := get(t, c.ServeHTTP, "/stats/summary")
		golden.File(t, "testdata/summary-"+version+".json", summary)
		cadvisor, resource := get(t, c.CAdvisor, "/metrics/cadvisor"), get(t, c.Resource, "/metrics/resource")
		golden.File(t, "testdata/cadvisor-"+version+".txt", cadvisor)
		golden.File(t, "testdata/resource-"+version+".txt", resource)
		for _, text := range []string{cadvisor, resource} {
			parser := expfmt.NewTextParser(model.UTF8Validation)
			if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestUsage holds what is told to API servers: no pod of which a container is not known, and no rate before there are two
// readings.
func TestUsage(t *testing.T) {
	c := fixed(t, "v1")
	if list := podUsage(c.last); len(list.Items) != 0 {
		t.Errorf("of a pod with a container that is gone: %+v", list.Items)
	}
	c.last.pods[0].containers = c.last.pods[0].containers[:1]
	list := podUsage(c.last)
	if len(list.Items) != 1 {
		t.Fatalf("%+v", list.Items)
	}
	pod, web := list.Items[0], list.Items[0].Containers[0]
	if pod.Name != "cart" || pod.UID != "u1" || pod.Window.Duration != 10*time.Second || !pod.Timestamp.Time.Equal(c.last.at) {
		t.Errorf("%+v", pod)
	}
	if got := web.Usage.Cpu().String() + " " + web.Usage.Memory().String(); web.Name != "web" || got != "50m 20000000" {
		t.Errorf("%s uses %s", web.Name, got)
	}
	var decoded metricsv1beta1.NodeMetrics
	if err := decoded.Unmarshal([]byte(get(t, c.NodeUsage, "/usage/node"))); err != nil || decoded.Usage.Cpu().String() != "750m" {
		t.Errorf("%v %+v", err, decoded)
	}
	first := New(Options{NodeName: "n1", Pods: func() []Pod { return nil }})
	w := httptest.NewRecorder()
	first.NodeUsage(w, httptest.NewRequest("GET", "/usage/node", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("before there is a rate: %d", w.Code)
	}
}

// TestSameName: a pod whose successor of the same name has come, and a container that was restarted, are told once where
// only the name tells them apart.
func TestSameName(t *testing.T) {
	c := fixed(t, "v1")
	before := c.last.pods[0]
	before.StartTime = before.StartTime.Add(-time.Hour)
	restarted := before.containers[0]
	restarted.StartTime, restarted.ID = restarted.StartTime.Add(time.Minute), "id3"
	after := c.last.pods[0]
	after.containers = []containerUse{after.containers[1], after.containers[0], restarted}
	c.last.pods = []podUse{before, after}
	text := get(t, c.Resource, "/metrics/resource")
	for _, want := range []string{
		`pod_cpu_usage_seconds_total{namespace="shop",pod="cart"} `,
		`container_cpu_usage_seconds_total{container="web",namespace="shop",pod="cart"} `,
		`container_start_time_seconds{container="web",namespace="shop",pod="cart"} 1.79999646e+09`,
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%s: not once in\n%s", want, text)
		}
	}
}

// TestMeasuredSeldom: however many ask, for whatever, a node is measured once in 15 s.
func TestMeasuredSeldom(t *testing.T) {
	now, measured := time.Now(), 0
	c := New(Options{NodeName: "n1", Pods: func() []Pod { measured++; return nil }, Dir: t.TempDir()})
	c.now = func() time.Time { return now }
	ask := func() {
		get(t, c.Resource, "/metrics/resource")
		get(t, c.ServeHTTP, "/stats/summary")
		get(t, c.CAdvisor, "/metrics/cadvisor")
		get(t, c.ServeHTTP, "/stats/summary?only_cpu_and_memory=true")
		c.sample()
	}
	ask()
	now = now.Add(14 * time.Second)
	ask()
	if measured != 1 {
		t.Errorf("measured %d times", measured)
	}
	now = now.Add(time.Second)
	ask()
	if measured != 2 {
		t.Errorf("measured %d times", measured)
	}
	now = now.Add(11 * sampleEvery)
	c.forget()
	if c.last != nil {
		t.Error("what nobody asks for is kept")
	}
}

// TestWaitingEnds: who waits for another's measuring waits no longer than wanted.
func TestWaitingEnds(t *testing.T) {
	c := New(Options{Pods: func() []Pod { return nil }})
	c.measuring <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/stats/summary", nil))
	if body, _ := io.ReadAll(w.Body); len(body) > 0 {
		t.Errorf("answered %s", body)
	}
}

// TestPartOfSummary: what was not measured is not there.
func TestPartOfSummary(t *testing.T) {
	c := New(Options{NodeName: "n1", Pods: func() []Pod { return nil }})
	var s statsapi.Summary
	if err := json.Unmarshal([]byte(get(t, c.ServeHTTP, "/stats/summary?only_cpu_and_memory=1")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Node.CPU == nil || s.Node.Memory == nil || s.Node.Fs != nil || s.Node.Network != nil || s.Node.Runtime != nil {
		t.Errorf("%+v", s.Node)
	}
}
