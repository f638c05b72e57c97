package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/spec"
)

// maxUsers bounds what is read of an image's /etc/passwd and /etc/group.
const maxUsers = 1 << 20

// image is what containers need to know of an image on the node.
type image struct {
	name, id, chainID string
	config            imagespec.ImageConfig

	mu    sync.Mutex // held while users are read
	read  bool
	users spec.Users // final once read
}

// ensureImage has the container's image on the node and unpacked.
func (a *Agent) ensureImage(ctx context.Context, p *pod, c *corev1.Container) (*image, error) {
	select {
	case <-a.imported:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o := p.object()
	var secrets []corev1.Secret
	var unreadable []string
	for _, ref := range o.Spec.ImagePullSecrets {
		s, err := a.content.Secret(ctx, o.Namespace, ref.Name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil { // another one, or what is on the node, may do
			unreadable = append(unreadable, ref.Name)
			continue
		}
		secrets = append(secrets, *s)
	}
	if len(unreadable) > 0 {
		p.event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(unreadable, ", ")))
	}
	got, err := a.images.Ensure(ctx, images.Request{
		Image: c.Image, Policy: c.ImagePullPolicy, Secrets: secrets,
		Event: func(e images.Event) { p.containerEvent(c.Name, e.Type, e.Reason, e.Message) },
	})
	if err != nil {
		return nil, err
	}
	key := got.Name + "\n" + got.ID
	a.mu.Lock()
	known := a.imageInfo[key]
	a.mu.Unlock()
	if known != nil {
		return known, nil
	}
	layers, err := got.Containerd.RootFS(ctx)
	if err != nil {
		return nil, &stepError{images.ReasonImageInspectError, fmt.Errorf("cannot read layers of image %s: %w", c.Image, err)}
	}
	img := &image{name: got.Name, id: got.ID, chainID: identity.ChainID(layers).String(), config: got.Config}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.imageInfo[key]; known != nil {
		return known, nil
	}
	if len(a.imageInfo) >= maxImageInfo {
		clear(a.imageInfo)
	}
	a.imageInfo[key] = img
	poke(a.imagesWake)
	return img, nil
}

// maxImageInfo bounds the cache of images' configurations; nodes have tens.
const maxImageInfo = 1000

// loadUsers reads the image's users through a layer of it that is mounted nowhere yet. After a success it does nothing;
// a failure may pass, and is tried again with the next container.
func (i *image) loadUsers(ctx context.Context, layer []mount.Mount) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.read {
		return nil
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
		return fmt.Errorf("cannot read users of image %s: %w", i.name, err)
	}
	i.read = true
	return nil
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
