package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
)

// node is the machine that is measured: a folder on the disk and a containerd of its own.
type node struct {
	options
	dir        string // on the disk, as /var/lib is
	containerd *exec.Cmd
	client     *client.Client
	number     int // of folders handed out
}

func newNode(ctx context.Context, o options) (_ *node, err error) {
	n := &node{options: o}
	if n.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := n.startContainerd(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", n.socket())
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("cannot reach containerd: %w", err)
		}
	}
	if n.client, err = client.New(n.socket()); err != nil {
		return nil, fmt.Errorf("cannot reach containerd: %w", err)
	}
	return n, n.images(ctx)
}

func (n *node) socket() string { return filepath.Join("/run", "containerd", "containerd.sock") }

func (n *node) startContainerd() error {
	config := fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = %q
`, filepath.Join(n.dir, "containerd"), n.socket())
	path := filepath.Join(n.dir, "containerd.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return fmt.Errorf("cannot configure containerd: %w", err)
	}
	log, err := os.Create(filepath.Join(n.dir, "containerd.log"))
	if err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	defer log.Close()
	n.containerd = exec.Command("containerd", "--config", path)
	n.containerd.Stdout, n.containerd.Stderr = log, log
	if err := n.containerd.Start(); err != nil {
		return fmt.Errorf("cannot start containerd: %w", err)
	}
	return nil
}

func (n *node) close() error {
	var errs []error
	if n.client != nil {
		errs = append(errs, n.client.Close())
	}
	if n.containerd != nil && n.containerd.Process != nil {
		errs = append(errs, n.containerd.Process.Signal(syscall.SIGTERM))
		_ = n.containerd.Wait()
	}
	return errors.Join(append(errs, os.RemoveAll(n.dir))...)
}

// folder makes a new folder on the node's disk.
func (n *node) folder() (string, error) {
	n.number++
	dir := filepath.Join(n.dir, fmt.Sprint(n.number))
	return dir, os.Mkdir(dir, 0o755)
}

// times is how often to measure: once if quick.
func (n *node) times(rounds int) int { return n.size(rounds, 1) }

// size is full, or small if quick.
func (n *node) size(full, small int) int {
	if n.quick {
		return small
	}
	return full
}
