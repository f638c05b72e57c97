package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/image-spec/identity"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/spec"
)

const (
	// maxUsers bounds what is read of an image's /etc/passwd and /etc/group.
	maxUsers = 1 << 20
	// maxImages bounds what is remembered of images; nodes have tens.
	maxImages = 1000
)

// knownImages are the node's images as its pods use them.
type knownImages struct {
	manager  *images.Manager
	imported <-chan struct{} // closed when nothing more is imported
	added    func()          // is told of each image that was not known

	mu    sync.Mutex
	known map[string]*knownImage // by name and ID
}

type knownImage struct {
	pod.Image

	mu    sync.Mutex // held while users are read
	read  bool
	users spec.Users // final once read
}

// Ensure implements pod.Images.
func (k *knownImages) Ensure(ctx context.Context, req images.Request) (pod.Image, error) {
	select {
	case <-k.imported:
	case <-ctx.Done():
		return pod.Image{}, ctx.Err()
	}
	got, err := k.manager.Ensure(ctx, req)
	if err != nil {
		return pod.Image{}, err
	}
	if known := k.find(got.Name, got.ID); known != nil {
		return known.Image, nil
	}
	layers, err := got.Containerd.RootFS(ctx)
	if err != nil {
		return pod.Image{}, pod.Failed(images.ReasonImageInspectError, fmt.Errorf("cannot read layers of image %s: %w", req.Image, err))
	}
	return k.add(pod.Image{Name: got.Name, ID: got.ID, ChainID: identity.ChainID(layers).String(), Config: got.Config}).Image, nil
}

func (k *knownImages) find(name, id string) *knownImage {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[name+"\n"+id]
}

// add remembers an image, unless it is known.
func (k *knownImages) add(image pod.Image) *knownImage {
	key := image.Name + "\n" + image.ID
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.known[key]; known != nil {
		return known
	}
	if len(k.known) >= maxImages {
		clear(k.known)
	}
	k.known[key] = &knownImage{Image: image}
	k.added()
	return k.known[key]
}

// Users implements pod.Images. After a success it reads nothing; a failure may pass, and is tried again with the next container.
func (k *knownImages) Users(ctx context.Context, image pod.Image, layer []mount.Mount) (spec.Users, error) {
	i := k.add(image)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.read {
		return i.users, nil
	}
	err := mount.WithReadonlyTempMount(ctx, layer, func(root string) error {
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer r.Close()
		if i.users.Passwd, err = readBounded(r, "etc/passwd"); err != nil {
			return err
		}
		i.users.Group, err = readBounded(r, "etc/group")
		return err
	})
	if err != nil {
		return spec.Users{}, fmt.Errorf("cannot read users of image %s: %w", i.Name, err)
	}
	i.read = true
	return i.users, nil
}

// readBounded returns "" for a file that is absent, no file, or out of the root.
func readBounded(r *os.Root, name string) (string, error) {
	st, err := r.Stat(name)
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxUsers {
		return "", nil
	}
	data, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}
