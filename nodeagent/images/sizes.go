package images

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDescribed bounds in bytes what describes an image: manifests, indexes, configurations, which are read into memory
// whole. It is what containerd takes of a registry for a tag, where it does not look further.
var maxDescribed = docker.MaxManifestSize

// sized refuses what describes an image and is too large, before it is fetched. A registry's word on a size is binding:
// content of another one is refused, and so is none.
func sized(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) || images.IsConfigType(d.MediaType) {
			if err := describes(d); err != nil {
				return nil, err
			}
		}
		children, err := next.Handle(ctx, d)
		if err == nil && images.IsManifestType(d.MediaType) && len(children) > 0 {
			err = describes(children[0]) // the configuration, whatever it says it is
		}
		if err != nil {
			return nil, err
		}
		return children, nil
	})
}

func describes(d ocispec.Descriptor) error {
	if d.Size < 0 || d.Size > maxDescribed {
		return fmt.Errorf("%s of %d bytes is more than the limit of %d", d.MediaType, d.Size, maxDescribed)
	}
	return nil
}
