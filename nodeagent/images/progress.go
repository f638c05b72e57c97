package images

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tellPeriod is how often who waits for a pull is told how far it is: a pod's status changes with it.
const tellPeriod = 10 * time.Second

// progress is how far a pull is. The zero value is at its beginning.
type progress struct {
	mu    sync.Mutex
	came  int64                                // bytes
	known map[digest.Digest]ocispec.Descriptor // what the image consists of, as far as it is known
	here  int64                                // bytes of it that need not come
}

func (p *progress) add(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came += int64(bytes)
}

// learn notes a part of the image; here says that it need not come.
func (p *progress) learn(d ocispec.Descriptor, here bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.known[d.Digest]; ok {
		return
	}
	if p.known == nil {
		p.known = map[digest.Digest]ocispec.Descriptor{}
	}
	p.known[d.Digest] = d
	if here {
		p.here += d.Size
	}
}

// read returns how many bytes have come, of how many; of is never less than done.
func (p *progress) read() (done, of int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.known {
		of += d.Size
	}
	of = max(of-p.here, 0)
	return min(p.came, of), of // what came twice counts once
}

// parts are what is known of the image, in any order.
func (p *progress) parts() []ocispec.Descriptor {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]ocispec.Descriptor, 0, len(p.known))
	for _, d := range p.known {
		out = append(out, d)
	}
	return out
}

// followed notes what an image consists of as that becomes known.
func (m *Manager) followed(next images.Handler, going *progress) images.Handler {
	here := func(ctx context.Context, d ocispec.Descriptor) bool {
		_, err := m.client.ContentStore().Info(ctx, d.Digest)
		return err == nil
	}
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		going.learn(d, here(ctx, d))
		children, err := next.Handle(ctx, d)
		for _, child := range children {
			if !images.IsManifestType(child.MediaType) && !images.IsIndexType(child.MediaType) { // one of many may be for this machine
				going.learn(child, here(ctx, child))
			}
		}
		return children, err
	})
}

// Pulling words how far the pull of an image is: `Pulling image "web:1": 12.5 of 40.0 MiB`.
func Pulling(image string, done, of int64) string {
	const mebibyte = 1 << 20
	return fmt.Sprintf("Pulling image %q: %.1f of %.1f MiB", image, float64(done)/mebibyte, float64(of)/mebibyte)
}
