package volumes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSpace: a file system is as large as the kernel says; one that does not answer ends with who asks.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=100"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Space(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for what, is := range map[string][2]uint64{"capacity": {*got.CapacityBytes, 1 << 20}, "used": {*got.UsedBytes, 256 << 10},
		"available": {*got.AvailableBytes, 768 << 10}, "inodes": {*got.Inodes, 100}, "free inodes": {*got.InodesFree, 98},
		"used inodes": {*got.InodesUsed, 2}} {
		if is[0] != is[1] {
			t.Errorf("%s: %d, want %d", what, is[0], is[1])
		}
	}
	if _, err := Space(t.Context(), dir+"/none"); err == nil || !strings.Contains(err.Error(), "No such file or directory") {
		t.Error(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for script, want := range map[string]string{"echo nonsense": `stat says "nonsense\n"`, "sleep 1000": "signal: killed"} {
		if err := os.WriteFile(filepath.Join(bin, "stat"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := Space(ctx, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
		cancel()
	}
}

// TestSpaceOfDevices: a device is as large as its file; what is free of it is not known.
func TestSpaceOfDevices(t *testing.T) {
	m := newManager(t)
	path, err := m.loops.attach("uid-1", "data", backing(t, "text", 1<<20), false)
	if err != nil {
		t.Fatal(err)
	}
	device, err := deviceAt(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := device.Space(); err != nil || *got.CapacityBytes != 1<<20 || *got.UsedBytes != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := (&Device{Major: 4095, Minor: 1}).Space(); err == nil {
		t.Error("a device that is not there has a size")
	}
}
