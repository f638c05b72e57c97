package control

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/eventually"
)

// removed is a backend that only removes nodes.
type removed struct {
	Backend
	names []string
}

func (r *removed) RemoveNode(_ context.Context, name string) error {
	r.names = append(r.names, name)
	return nil
}

// TestSocketIsPrivate starts and ends the door many times while another looks whether he could open it, where every new
// file is for everybody.
func TestSocketIsPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 20)) // a socket's path has 107 bytes at most
	path := filepath.Join(dir, SocketName)
	watch, stop := context.WithCancel(t.Context())
	seen := make(chan os.FileMode, 1)
	go func() {
		defer close(seen)
		for watch.Err() == nil {
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != 0o600 {
				seen <- info.Mode()
				return
			}
		}
	}()
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, dir, &removed{}) }()
		eventually.True(t, 30*time.Second, "the socket is there", func() bool { _, err := os.Lstat(path); return err == nil })
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Fatalf("the door leaves %v behind, %v", left, err)
		}
	}
	stop()
	if mode, found := <-seen; found {
		t.Errorf("the socket was there with mode %v", mode)
	}
}

// TestRemoveNode asks through the socket, which takes the place of one that was left behind.
func TestRemoveNode(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, SocketName), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	b := &removed{}
	go func() { done <- Serve(ctx, dir, b) }()
	eventually.Nil(t, 30*time.Second, "the node is removed", func() error { return Dial(dir).RemoveNode(ctx, "node-a.example") })
	cancel()
	if err := <-done; err != nil || len(b.names) != 1 || b.names[0] != "node-a.example" {
		t.Errorf("removed %v, %v", b.names, err)
	}
}
