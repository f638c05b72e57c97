package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/network"
)

// layersDir is where, in a sandbox's directory, the snapshotter's layers are seen with the IDs of the pod's user namespace.
const layersDir = "layers"

// overlay is what mounts a container's layer over those of its image.
type overlay struct {
	lower []string
	upper string
	rest  []string // its other options
}

// overlayOf reads what the snapshotter said. Of layers that are no overlay nothing could be shifted but all of their files.
func overlayOf(layer []mount.Mount) (overlay, error) {
	if len(layer) != 1 || layer[0].Type != "overlay" {
		return overlay{}, errors.New("cannot shift layer: its snapshotter does not make overlays")
	}
	var o overlay
	for _, option := range layer[0].Options {
		if dirs, ok := strings.CutPrefix(option, "lowerdir="); ok {
			o.lower = strings.Split(dirs, ":")
		} else {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				o.upper = dir
			}
			o.rest = append(o.rest, option)
		}
	}
	if len(o.lower) == 0 || o.upper == "" {
		return overlay{}, errors.New("cannot shift layer: its overlay has no layers")
	}
	return o, nil
}

// below returns the paths of the lower layers in a folder at which root is seen. Whatever is not below root is an error.
func (o overlay) below(root, at string) ([]string, error) {
	var out []string
	for _, dir := range o.lower {
		rel, err := filepath.Rel(root, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("cannot shift layer: %s is not in %s", dir, root)
		}
		out = append(out, filepath.Join(at, rel))
	}
	return out, nil
}

// Shift implements pod.Sandboxes. The image's layers are seen through an idmapped mount of the folder that has all of them,
// one a pod; what the container writes has the host's IDs at once, so of its own layer only the root changes hands. That is
// what later releases of containerd do in their shims.
func (sandboxes) Shift(dir string, layer []mount.Mount, firstID uint32) ([]mount.Mount, error) {
	o, err := overlayOf(layer)
	if err != nil {
		return nil, err
	}
	at := filepath.Join(dir, layersDir)
	if strings.HasPrefix(o.lower[0], at+"/") {
		return layer, nil // it is shifted
	}
	root := filepath.Dir(filepath.Dir(o.lower[0])) // …/snapshots/12/fs
	lower, err := o.below(root, at)
	if err != nil {
		return nil, err
	}
	if err := seenAs(root, at, network.UserPath(filepath.Join(dir, "ns"))); err != nil {
		return nil, fmt.Errorf("cannot shift layers of %s: %w", root, err)
	}
	if err := handOver(o.lower[0], o.upper, firstID); err != nil {
		return nil, fmt.Errorf("cannot shift layer: %w", err)
	}
	shifted := layer[0]
	shifted.Options = append(slices.Clone(o.rest), "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{shifted}, nil
}

// seenAs mounts a folder at another one, read-only and with the IDs of a user namespace. One that is mounted stays.
func seenAs(root, at, users string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	var here, there unix.Stat_t
	if err := errors.Join(unix.Stat(at, &here), unix.Stat(root, &there)); err != nil {
		return err
	}
	if here.Dev == there.Dev && here.Ino == there.Ino {
		return nil
	}
	ns, err := os.Open(users)
	if err != nil {
		return err
	}
	defer ns.Close()
	return idmap(root, at, ns)
}

// idmap is seenAs without looking; mounts below the folder are not seen.
func idmap(root, at string, users *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE,
		Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// handOver gives the root of a container's own layer to whom the image's root belongs, as the pod's user namespace has them.
func handOver(image, own string, firstID uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(image, &st); err != nil {
		return err
	}
	return unix.Lchown(own, int(firstID+st.Uid), int(firstID+st.Gid))
}
