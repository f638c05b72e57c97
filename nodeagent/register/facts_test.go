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
