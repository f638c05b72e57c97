package images

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	corev1 "k8s.io/api/core/v1"
)

// maxListed is how many images a node's status names, the kubelet's figure.
const maxListed = 50

// List returns the images on the node as a node's status has them: under all their names, the largest first, at most
// 50.
func (m *Manager) List(ctx context.Context) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(m.context(ctx), inspectTimeout)
	defer cancel()
	stored, err := m.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	byDigest := map[string]*corev1.ContainerImage{}
	for _, image := range stored {
		digest := image.Target.Digest.String()
		entry := byDigest[digest]
		if entry == nil {
			size, err := image.Size(ctx, m.client.ContentStore(), platforms.Default())
			if err != nil {
				continue // a part of it is missing: no pod can use it
			}
			entry = &corev1.ContainerImage{SizeBytes: size}
			byDigest[digest] = entry
		}
		entry.Names = append(entry.Names, image.Name)
		if _, imported := image.Labels[importLabel]; !imported && !strings.Contains(image.Name, "@") {
			entry.Names = append(entry.Names, repository(image.Name)+"@"+digest)
		}
	}
	list := make([]corev1.ContainerImage, 0, len(byDigest))
	for _, entry := range byDigest {
		slices.Sort(entry.Names)
		entry.Names = slices.Compact(entry.Names)
		list = append(list, *entry)
	}
	slices.SortFunc(list, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), strings.Compare(a.Names[0], b.Names[0]))
	})
	return list[:min(len(list), maxListed)], nil
}
