package images

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Thresholds say when images go.
type Thresholds struct {
	// High is the part of the disk, in percent, above which images are removed; zero means 85.
	High int
	// Low is where removing stops; zero means 80.
	Low int
	// MinAge is how long an image is left alone after it came; zero means 2 minutes. A pod may just be coming for it.
	MinAge time.Duration
	// All has every unused image removed, however full the disk is.
	All bool
}

func (t *Thresholds) applyDefaults() {
	if t.High == 0 {
		t.High = 85
	}
	if t.Low == 0 {
		t.Low = 80
	}
	if t.MinAge == 0 {
		t.MinAge = 2 * time.Minute
	}
}

// Disk is a file system's size in bytes.
type Disk struct{ Capacity, Available uint64 }

// Candidate is an image on the node, under all its names.
type Candidate struct {
	Digest   string
	Names    []string
	Size     uint64 // bytes; what removing it frees, more or less
	LastUsed time.Time
	Since    time.Time // when it came, or was first seen
	InUse    bool      // by a container, or wanted by a pod
	Pinned   bool      // never removed
}

// ToRemove decides which images go, the longest unused first, and how many bytes should become free: none while the
// disk is at most High full, then until it would be Low full.
func ToRemove(disk Disk, candidates []Candidate, t Thresholds, now time.Time) (remove []Candidate, free uint64) {
	t.applyDefaults()
	if disk.Capacity == 0 || disk.Available >= disk.Capacity {
		return nil, 0
	}
	usage := 100 - int(disk.Available*100/disk.Capacity)
	if usage < t.High && !t.All {
		return nil, 0
	}
	wanted := disk.Capacity / 100 * uint64(100-t.Low)
	if t.All {
		wanted = disk.Capacity // which cannot be had
	}
	if wanted <= disk.Available {
		return nil, 0
	}
	free = wanted - disk.Available
	sorted := slices.Clone(candidates)
	sort.SliceStable(sorted, func(i, j int) bool {
		a, b := &sorted[i], &sorted[j]
		switch {
		case !a.LastUsed.Equal(b.LastUsed):
			return a.LastUsed.Before(b.LastUsed)
		case !a.Since.Equal(b.Since):
			return a.Since.Before(b.Since)
		}
		return a.Digest < b.Digest
	})
	var freed uint64
	for _, c := range sorted {
		if freed >= free {
			break
		}
		if c.InUse || c.Pinned || now.Sub(c.Since) < t.MinAge {
			continue
		}
		remove = append(remove, c)
		freed += c.Size
	}
	return remove, free
}

// collectTimeout bounds one Collect: removing an image waits until containerd has freed its disk.
const collectTimeout = 10 * time.Minute

// Collect removes unused images when the disk is too full, and returns those it removed. wanted are names of images
// that pods of this node state; those that a container has are in use by themselves. It should be called every few
// minutes, also because it notes which images are used.
func (m *Manager) Collect(ctx context.Context, wanted []string, t Thresholds) ([]Candidate, error) {
	ctx, cancel := context.WithTimeout(m.context(ctx), collectTimeout)
	defer cancel()
	seen := time.Now()
	candidates, err := m.candidates(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("cannot collect images: %w", err)
	}
	m.forget(func(of digest.Digest) bool {
		return slices.ContainsFunc(candidates, func(c Candidate) bool { return c.Digest == of.String() })
	}, seen)
	disk, err := statDisk(m.diskPath)
	if err != nil {
		return nil, fmt.Errorf("cannot collect images: %w", err)
	}
	remove, free := ToRemove(disk, candidates, t, m.now())
	var removed []Candidate
	var errs []error
	for _, c := range remove {
		if err := m.remove(ctx, c); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, c)
		// What an image's layers take when unpacked is not known before: look.
		if now, err := statDisk(m.diskPath); err == nil && now.Available >= disk.Available+free {
			break
		}
	}
	return removed, errors.Join(errs...)
}

func (m *Manager) remove(ctx context.Context, c Candidate) error {
	var errs []error
	for i, name := range c.Names {
		var opts []images.DeleteOpt
		if i == len(c.Names)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := m.client.ImageService().Delete(ctx, name, opts...); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove image %s: %w", name, err))
			continue
		}
		m.mu.Lock()
		delete(m.known, name)
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}

// candidates lists the images with what is known of their use.
func (m *Manager) candidates(ctx context.Context, wanted []string) ([]Candidate, error) {
	stored, err := m.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := m.client.ContainerService().List(ctx)
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for _, c := range containers {
		inUse[c.Image] = true
	}
	for _, name := range wanted {
		if full, err := Normalize(name); err == nil {
			inUse[full] = true
		}
	}
	byDigest := map[string]*Candidate{}
	for _, image := range stored {
		digest := image.Target.Digest.String()
		c := byDigest[digest]
		if c == nil {
			size, err := image.Size(ctx, m.client.ContentStore(), platforms.Default())
			if err != nil {
				size = 0 // incomplete: what is there goes with it
			}
			c = &Candidate{Digest: digest, Size: uint64(max(size, 0)), Since: image.CreatedAt}
			byDigest[digest] = c
		}
		_, imported := image.Labels[importLabel]
		c.Names = append(c.Names, image.Name)
		c.InUse = c.InUse || inUse[image.Name]
		c.Pinned = c.Pinned || imported
	}
	names := map[string]bool{}
	for _, image := range stored {
		names[image.Name] = true
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.known, func(name string, _ known) bool { return !names[name] })
	list := make([]Candidate, 0, len(byDigest))
	for digest, c := range byDigest {
		if m.seen[digest].IsZero() {
			m.seen[digest] = now
		}
		if c.InUse {
			m.used[digest] = now
		}
		if c.Since.IsZero() || c.Since.After(now) {
			c.Since = m.seen[digest]
		}
		c.LastUsed = m.used[digest]
		sort.Strings(c.Names)
		list = append(list, *c)
	}
	for _, times := range []map[string]time.Time{m.seen, m.used} {
		maps.DeleteFunc(times, func(digest string, _ time.Time) bool { return byDigest[digest] == nil })
	}
	return list, nil
}

func statDisk(path string) (Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Disk{}, fmt.Errorf("cannot measure the disk at %s: %w", path, err)
	}
	size := uint64(st.Bsize)
	return Disk{Capacity: st.Blocks * size, Available: st.Bavail * size}, nil
}
