package stats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/internal/asroot"
)

func TestMain(m *testing.M) {
	asroot.Main("the tests of nodeagent/stats")
	goleak.VerifyTestMain(m)
}

func TestParseNode(t *testing.T) {
	stat := "cpu  100 10 50 1000 20 5 5 7 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5 " + strings.Repeat("0 ", 100_000) + "\nbtime 1700000000\n"
	memory := "MemTotal:        1000 kB\nMemFree:          200 kB\nInactive(file):   300 kB\nAnonPages:        100 kB\n"
	got, err := parseNode([]byte(stat), []byte(memory), []byte("pgfault 11\npgmajfault 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := used{
		cpu: uint64(1700 * time.Millisecond), user: uint64(1100 * time.Millisecond), system: uint64(600 * time.Millisecond),
		limits: limits{memory: 1000 << 10}, memory: 800 << 10, workingSet: 500 << 10, inactiveFile: 300 << 10, rss: 100 << 10,
		faults: 11, majorFaults: 2, booted: time.Unix(1_700_000_000, 0),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if _, err := parseNode([]byte(stat), nil, nil); err == nil {
		t.Error("no memory, and no error")
	}
}

func TestRates(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c := New(Options{Pods: func() []Pod { return nil }})
	c.now = func() time.Time { return now }
	check := func(after time.Duration, nanos uint64, want string) {
		t.Helper()
		now = now.Add(after)
		got := "none"
		if per := c.note("x", nanos).perSecond(); per != nil {
			got = fmt.Sprint(*per)
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	check(0, 1e9, "none")
	check(time.Millisecond, 2e9, "none")                     // too soon to tell
	check(2*time.Second-time.Millisecond, 5e9, "2000000000") // 4e9 in 2 s
	check(time.Millisecond, 9e9, "2000000000")               // the last rate stands
	check(10*time.Second, 1e9, "none")                       // began anew
	check(time.Second, 2e9, "1000000000")
	check(9*time.Second, 29e9, "2800000000") // 28e9 in 10 s: the window before was short
	check(15*time.Second, 44e9, "1000000000")
	now = now.Add(time.Hour)
	c.forget()
	check(0, 1, "none")
}

// busy starts a process that uses CPU and memory in a cgroup of its own, and a network namespace.
func busy(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; x=$(head -c 4000000 /dev/zero | tr '\\0' a); while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	t.Cleanup(runtime.UnlockOSThread)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	remove := func() error { return nil }
	if cgroups.Mode() == cgroups.Unified {
		limit := int64(64 << 20)
		group, err := cgroup2.NewManager("/sys/fs/cgroup", path, &cgroup2.Resources{Memory: &cgroup2.Memory{Max: &limit}})
		if err == nil {
			err = group.AddProc(uint64(pid))
			remove = group.Delete
		}
		if err != nil {
			t.Fatal(err)
		}
	} else {
		limit := int64(64 << 20)
		group, err := cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
		if err == nil {
			err = group.AddProc(uint64(pid))
			remove = group.Delete
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestSummary(t *testing.T) {
	group := fmt.Sprintf("/lockstep-test-stats-%d", os.Getpid())
	pid := busy(t, group)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0.log"), make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "0.log"), filepath.Join(dir, "same")); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	pods := []Pod{
		{Namespace: "b", Name: "gone", UID: "2", Cgroup: "/no/such/cgroup", NetNS: "/no/such/ns",
			Containers: []Container{{Name: "x", ID: "gone", LogDir: "/no/such/dir"}}},
		{Namespace: "a", Name: "web", UID: "1", StartTime: now, Cgroup: group, NetNS: fmt.Sprintf("/proc/%d/ns/net", pid),
			Containers: []Container{{Name: "c", ID: "id", StartTime: now, Cgroup: group, LogDir: dir}},
			Volumes:    map[string]string{"v": dir}},
	}
	c := New(Options{
		NodeName: "node-1", Pods: func() []Pod { return pods }, Dir: dir,
		RootFS: func(_ context.Context, id string) (uint64, uint64, error) {
			if id != "id" {
				return 0, 0, errors.New("no such container")
			}
			return 123, 4, nil
		},
	})
	c.sample()
	time.Sleep(minRate + 100*time.Millisecond)
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest("GET", "/stats/summary", nil))
	var s statsapi.Summary
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != 200 {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	n := s.Node
	if n.NodeName != "node-1" || *n.CPU.UsageNanoCores == 0 || *n.Memory.WorkingSetBytes == 0 || *n.Memory.AvailableBytes == 0 ||
		*n.Fs.CapacityBytes < *n.Fs.UsedBytes || n.Runtime.ImageFs == nil || n.Network == nil || n.StartTime.IsZero() {
		t.Errorf("the node: %s", w.Body)
	}
	if len(s.Pods) != 2 || s.Pods[0].PodRef.Name != "web" {
		t.Fatalf("the pods: %s", w.Body)
	}
	pod := s.Pods[0]
	if *pod.CPU.UsageCoreNanoSeconds == 0 || pod.CPU.UsageNanoCores == nil || *pod.CPU.UsageNanoCores == 0 {
		t.Errorf("the pod's cpu: %+v", pod.CPU)
	}
	if *pod.Memory.UsageBytes == 0 || *pod.Memory.AvailableBytes > 64<<20 {
		t.Errorf("the pod's memory: %+v", pod.Memory)
	}
	if pod.Network == nil {
		t.Error("the pod has no network")
	}
	container := pod.Containers[0]
	if container.Name != "c" || *container.Rootfs.UsedBytes != 123 || *container.Rootfs.InodesUsed != 4 || container.CPU == nil {
		t.Errorf("the container: %+v", container)
	}
	if got := *container.Logs.UsedBytes; got < 40<<10 || got >= 80<<10 { // two names of one file
		t.Errorf("its logs take %d", got)
	}
	if len(pod.VolumeStats) != 1 || pod.VolumeStats[0].Name != "v" {
		t.Errorf("the volumes: %+v", pod.VolumeStats)
	}
	gone := s.Pods[1]
	if gone.CPU != nil || gone.Memory != nil || gone.Network != nil || gone.Containers[0].Logs != nil || gone.Containers[0].Rootfs != nil {
		t.Errorf("a pod that is gone: %+v", gone)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.measure(canceled, true); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.Run(canceled); err != nil {
		t.Error(err)
	}
}
