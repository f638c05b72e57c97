package register

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRuntimes finds containerd's shims on the path: the highest version of each, and none that cannot be run.
func TestRuntimes(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for path, mode := range map[string]os.FileMode{
		filepath.Join(first, "containerd-shim-runc-v2"):            0o755,
		filepath.Join(first, "containerd-shim-runsc-v1"):           0o644,
		filepath.Join(first, "containerd-shim-kata-clh-v2"):        0o755,
		filepath.Join(first, "containerd-shim"):                    0o755,
		filepath.Join(first, "containerd-shim-v2"):                 0o755,
		filepath.Join(first, "containerd-shim-odd-vnext"):          0o755,
		filepath.Join(second, "containerd-shim-runc-v1"):           0o755,
		filepath.Join(second, "containerd-shim-runc-v10"):          0o755,
		filepath.Join(second, "containerd-shim-wasmtime-v1"):       0o755,
		filepath.Join(second, "containerd-shim-wasmtime-v1.local"): 0o755,
	} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(first, "containerd-shim-folder-v1"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := runtimes(first + ":" + second + ":" + filepath.Join(first, "absent"))
	want := map[string]string{
		"runc": "io.containerd.runc.v10", "kata-clh": "io.containerd.kata-clh.v2", "wasmtime": "io.containerd.wasmtime.v1",
	}
	if !maps.Equal(got, want) {
		t.Errorf("runtimes = %v, want %v", got, want)
	}
	handlers := Status("n", corev1.NodeStatus{}, State{Facts: Facts{Runtimes: got}}, time.Now()).RuntimeHandlers
	for i, name := range []string{"", "kata-clh", "runc", "wasmtime"} {
		if len(handlers) != 4 || handlers[i].Name != name {
			t.Errorf("handlers = %v", handlers)
		}
	}
}

// TestHugePages has a tree as the kernel shows it, and takes what is in it from the memory that pods can have.
func TestHugePages(t *testing.T) {
	dir := t.TempDir()
	for size, n := range map[string]string{"hugepages-2048kB": "3\n", "hugepages-1048576kB": "0\n", "hugepages-64kB": "none\n"} {
		if err := os.MkdirAll(filepath.Join(dir, size), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, size, "nr_hugepages"), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := Facts{Memory: 64 << 20, KeptMemory: 10 << 20, Hugepages: hugePages(dir)}
	if want := map[string]int64{"2Mi": 6 << 20, "1Gi": 0}; !maps.Equal(f.Hugepages, want) {
		t.Errorf("huge pages %v, want %v", f.Hugepages, want)
	}
	capacity, allocatable := f.Capacity(), f.Allocatable()
	if q := capacity["hugepages-2Mi"]; q.Value() != 6<<20 || capacity.Memory().Value() != 64<<20 {
		t.Errorf("capacity %v", capacity)
	}
	if q := allocatable["hugepages-2Mi"]; q.Value() != 6<<20 || allocatable.Memory().Value() != 48<<20 {
		t.Errorf("allocatable %v", allocatable)
	}
}
