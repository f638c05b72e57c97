package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/network"
)

// sandboxes are namespaces that are pinned by mounts, on a network of CNI plugins.
type sandboxes struct{ *network.Network }

const shmSize = "size=64m,mode=1777" // Kubernetes' and Docker's size

// Pin implements pod.Sandboxes. Shared memory belongs to the pod's own users.
func (sandboxes) Pin(dir string, n network.Namespaces) error {
	if err := network.Pin(filepath.Join(dir, "ns"), n); err != nil || !n.IPC {
		return err
	}
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o755); err != nil {
		return fmt.Errorf("cannot make shared memory: %w", err)
	}
	options := fmt.Sprintf("%s,uid=%d,gid=%d", shmSize, n.FirstID, n.FirstID)
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("cannot mount shared memory at %s: %w", shm, err)
	}
	return nil
}

// Pinned implements pod.Sandboxes.
func (sandboxes) Pinned(dir string, n network.Namespaces) bool {
	return network.Pinned(filepath.Join(dir, "ns"), n)
}

// Unpin implements pod.Sandboxes.
func (sandboxes) Unpin(dir string) error { return Unpin(dir) }

// Unpin removes a sandbox's namespaces, what is mounted in its directory, and that with all that is in it. One that is not
// there is no error.
func Unpin(dir string) error {
	for _, name := range []string{"shm", layersDir} {
		if err := unmount(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := network.Unpin(filepath.Join(dir, "ns")); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove sandbox: %w", err)
	}
	return nil
}

// unmount takes all mounts away from a directory, which need not be there.
func unmount(dir string) error {
	for {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				return nil
			}
			return fmt.Errorf("cannot unmount %s: %w", dir, err)
		}
	}
}

// Tune implements pod.Sandboxes.
func (sandboxes) Tune(dir string, sysctls map[string]string) error {
	return network.Tune(filepath.Join(dir, "ns"), sysctls)
}

// Limit implements pod.Sandboxes.
func (sandboxes) Limit(path string, limits *specs.LinuxResources) error {
	return cgroup.Make(path, limits)
}

// Unlimit implements pod.Sandboxes.
func (sandboxes) Unlimit(path string) error { return cgroup.Remove(path) }

// OOMKilled implements pod.Sandboxes.
func (sandboxes) OOMKilled(path string) bool { return cgroup.OOMKilled(path) }
