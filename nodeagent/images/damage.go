package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// settledLabel marks an image that a power cut cannot take anything of: what was unpacked of it was on the disk when it was written.
// containerd itself leaves that to the kernel, and knows after a cut of layers whose files are empty.
const settledLabel = "lockstep.dev/on-disk"

// settle has an image on the disk, and marks it so. Where it is the one that was, nothing of it was written.
func (m *Manager) settle(ctx context.Context, image client.Image, was digest.Digest) error {
	record := image.Metadata()
	if record.Labels[settledLabel] == m.settled(record) {
		return nil
	}
	if record.Target.Digest != was {
		if err := m.disk.flush(m.diskPath); err != nil {
			return fmt.Errorf("cannot bring image %s to the disk: %w", record.Name, err)
		}
	}
	update := images.Image{Name: record.Name, Target: record.Target, Labels: map[string]string{settledLabel: m.settled(record)}}
	_, err := m.client.ImageService().Update(ctx, update, "labels."+settledLabel)
	return err
}

// settledAs is the digest of an image that is unpacked and on the disk; empty where it is not.
func (m *Manager) settledAs(ctx context.Context, name string) digest.Digest {
	stored, err := m.client.GetImage(ctx, name)
	if err != nil || stored.Labels()[settledLabel] != m.settled(stored.Metadata()) || m.recall(ctx, stored) == nil {
		return ""
	}
	return stored.Target().Digest
}

// settled is what the label says of an image's content: a tag that moves, or another snapshotter, begins anew.
func (m *Manager) settled(image images.Image) string {
	return m.snapshotter + " " + image.Target.Digest.String()
}

// distrust looks at an image that came in an earlier life of the machine, and may have come to the disk in part: blobs that are not
// what their names say go, and so does what was unpacked, unless a container or another image stands on it. Where blobs are absent, as
// with a containerd that keeps none of what it has unpacked, that stays: there is nothing to unpack anew.
func (m *Manager) distrust(ctx context.Context, image client.Image) error {
	record := image.Metadata()
	if record.Labels[settledLabel] == m.settled(record) || m.thisBoot(record) {
		return nil
	}
	layers, layersErr := image.RootFS(ctx) // while it can be read
	_, _, _, absent, err := images.Check(ctx, m.client.ContentStore(), record.Target, platforms.Default())
	switch dropped := m.dropDamaged(ctx, m.partsOf(ctx, record.Target)); {
	case dropped > 0:
		layersErr = fmt.Errorf("content of image %s is damaged: %w", record.Name, errdefs.ErrNotFound)
	case err != nil || len(absent) > 0:
		return cmp.Or(layersErr, err)
	}
	for n := len(layers); n > 0; n-- {
		if m.client.SnapshotService(m.snapshotter).Remove(ctx, identity.ChainID(layers[:n]).String()) != nil {
			break // in use, and those below with it; or it is not there
		}
	}
	return layersErr
}

// thisBoot says whether the image came since the machine was started: what the kernel has not written yet, it has.
func (m *Manager) thisBoot(image images.Image) bool {
	if boot, ok := image.Labels[pulledLabel]; ok {
		return boot == m.boot
	}
	return image.UpdatedAt.After(bootTime())
}

// partsOf are what an image consists of for this machine, as far as that can be read, each once: an index may name another one a
// thousand times, and that a third one.
func (m *Manager) partsOf(ctx context.Context, target ocispec.Descriptor) []ocispec.Descriptor {
	var parts []ocispec.Descriptor
	seen, store := map[digest.Digest]bool{}, m.client.ContentStore()
	walk := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if seen[d.Digest] {
			return nil, images.ErrSkipDesc
		}
		seen[d.Digest], parts = true, append(parts, d)
		children, err := images.FilterPlatforms(images.ChildrenHandler(store), platforms.Default()).Handle(ctx, d)
		if err != nil {
			return nil, images.ErrSkipDesc // it cannot be read: what it names is not known
		}
		return children, nil
	})
	_ = images.Walk(ctx, walk, target) // ends early where ctx does
	return parts
}

// dropDamaged removes those blobs from the content store that are other than their digests say, and returns how many it were. They
// are gone from the disk when it returns: containerd takes up what it finds there.
func (m *Manager) dropDamaged(ctx context.Context, parts []ocispec.Descriptor) (dropped int) {
	store := m.client.ContentStore()
	for _, d := range parts {
		if sound, err := m.sound(ctx, d); err == nil && !sound && store.Delete(ctx, d.Digest) == nil {
			dropped++
		}
	}
	if dropped > 0 {
		m.collectGarbage(ctx)
	}
	return dropped
}

// sound reads a blob; one that is absent is.
func (m *Manager) sound(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	store := m.client.ContentStore()
	info, err := store.Info(ctx, d.Digest)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	r, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest, Size: info.Size})
	if errdefs.IsNotFound(err) { // known, and not on the disk
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	verifier := d.Digest.Verifier()
	_, err = io.Copy(verifier, content.NewReader(r))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return err == nil && verifier.Verified(), nil
}

// collectGarbage has containerd remove what nothing refers to, and waits for it.
func (m *Manager) collectGarbage(ctx context.Context) {
	service := m.client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Minute))
	if err == nil {
		_ = service.Delete(ctx, lease, leases.SynchronousDelete) // what stays is found to be damaged again
	}
}

// flusher has file systems written to the disk.
type flusher struct{ mu sync.Mutex }

// flush returns when everything that was written to the file system of a path before it was called is on the disk. One goes on at a
// time: who comes meanwhile has less to wait for then.
func (f *flusher) flush(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// bootTime is when the machine was started.
func bootTime() time.Time {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(info.Uptime) * time.Second)
}
