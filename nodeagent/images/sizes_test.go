package images

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestWhatDescribesAnImageIsSmall: a registry says that a manifest or a configuration has gigabytes, by any name; it is
// refused before anything of it is fetched. Layers go to disk and may.
func TestWhatDescribesAnImageIsSmall(t *testing.T) {
	const much = 5 << 30
	for _, c := range []struct {
		asked, first ocispec.Descriptor
		refused      bool
		fetched      int
	}{
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Size: 1000}, ocispec.Descriptor{}, false, 1},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: much}, ocispec.Descriptor{}, true, 0},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Size: much}, ocispec.Descriptor{}, true, 0},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Size: much}, ocispec.Descriptor{}, true, 0},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Size: -1}, ocispec.Descriptor{}, true, 0},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: much}, ocispec.Descriptor{}, false, 1},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: 1000},
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Size: 1000}, false, 1},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: 1000},
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: much}, true, 1},
	} {
		t.Run(fmt.Sprint(c.asked.MediaType, c.asked.Size, c.first.MediaType), func(t *testing.T) {
			fetched := 0
			_, err := sized(images.HandlerFunc(func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
				fetched++
				return []ocispec.Descriptor{c.first}, nil
			})).Handle(t.Context(), c.asked)
			if (err != nil) != c.refused || fetched != c.fetched {
				t.Errorf("%v, fetched %d times", err, fetched)
			}
		})
	}
}
