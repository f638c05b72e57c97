package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"lockstep/lab/image"
)

const (
	imageName   = "lockstep.example/idle:1"
	snapshotter = "overlayfs"
)

func (n *node) imagesDir() string { return filepath.Join(n.dir, "images") }

// images builds the image that all containers are of, for Lockstep to import, and imports it for the bound.
func (n *node) images(ctx context.Context) error {
	if err := os.MkdirAll(n.imagesDir(), 0o755); err != nil {
		return fmt.Errorf("cannot build the image: %w", err)
	}
	program := filepath.Join(n.dir, "idle")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "lockstep/bench/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the image's program: %w: %s", err, out)
	}
	path := filepath.Join(n.imagesDir(), "idle.tar")
	if err := image.SaveProgram(path, imageName, program, "/idle"); err != nil {
		return err
	}
	tar, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot import the image: %w", err)
	}
	defer tar.Close()
	ctx = namespaces.WithNamespace(ctx, name)
	images, err := n.client.Import(ctx, tar)
	if err != nil {
		return fmt.Errorf("cannot import the image: %w", err)
	}
	for _, i := range images {
		if err := client.NewImage(n.client, i).Unpack(ctx, snapshotter); err != nil {
			return fmt.Errorf("cannot unpack the image: %w", err)
		}
	}
	return nil
}
