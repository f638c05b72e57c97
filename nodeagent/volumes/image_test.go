package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// TestImage mounts layers as snapshotters describe them, one and several: what is shown is read-only, also through a
// subPath, and the layers are still there when it is gone.
func TestImage(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	layers := t.TempDir()
	for _, name := range []string{"lower", "upper"} {
		if err := os.MkdirAll(filepath.Join(layers, name, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layers, name, "etc", name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lower, upper := filepath.Join(layers, "lower"), filepath.Join(layers, "upper")
	for name, mounts := range map[string][]mount.Mount{
		"one":     {{Type: "bind", Source: upper, Options: []string{"ro", "rbind"}}},
		"several": {{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + upper + ":" + lower}}},
	} {
		if got, ok := m.Image("uid-1", name); ok {
			t.Errorf("%s: mounted before: %+v", name, got)
		}
		for range 2 {
			made, err := m.MountImage(ctx, "uid-1", name, mounts)
			if err != nil || !made.ReadOnly {
				t.Fatalf("%s: %+v, %v", name, made, err)
			}
			if got, ok := m.Image("uid-1", name); !ok || got.HostPath != made.HostPath {
				t.Errorf("%s: Image = %+v, %v", name, got, ok)
			}
		}
		made, _ := m.Image("uid-1", name)
		sub, err := m.SubPath(ctx, "uid-1", made, "etc", "main", 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, dir := range []string{sub, filepath.Join(made.HostPath, "etc")} {
			if data, err := os.ReadFile(filepath.Join(dir, "upper")); err != nil || string(data) != "upper" {
				t.Errorf("%s: %q, %v", dir, data, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "upper"), nil, 0); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: written to: %v", dir, err)
			}
			if err := unix.Access(filepath.Join(dir, "upper"), unix.X_OK); !errors.Is(err, unix.EACCES) {
				t.Errorf("%s: a program of it can be run: %v", dir, err)
			}
		}
		if _, err := m.SubPath(ctx, "uid-1", made, "absent", "main", 1); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: an absent subPath: %v", name, err)
		}
	}
	absent := []mount.Mount{{Type: "bind", Source: "/absent", Options: []string{"rbind"}}}
	if _, err := m.MountImage(ctx, "uid-1", "broken", absent); err == nil {
		t.Error("absent layers were mounted")
	}
	for range 2 {
		if err := m.Teardown(ctx, "uid-1"); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{lower + "/etc/lower", upper + "/etc/upper"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// TestImageAfterACrash finds an image mounted by an agent that ended before it was read-only.
func TestImageAfterACrash(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	layer := []mount.Mount{{Type: "bind", Source: t.TempDir(), Options: []string{"rbind"}}}
	made, err := m.MountImage(ctx, "uid-1", "i", layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", made.HostPath, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if got, ok := m.Image("uid-1", "i"); ok {
		t.Errorf("taken for mounted: %+v", got)
	}
	if _, err := m.MountImage(ctx, "uid-1", "i", nil); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(made.HostPath, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to: %v", err)
	}
}
