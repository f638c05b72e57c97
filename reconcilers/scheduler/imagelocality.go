package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What images there are of a pod counts between these sizes, in bytes, the greater for each of its images.
const (
	smallImages = 23 << 20
	largeImage  = 1000 << 20
)

// imageLocality prefers nodes that have the pod's images, those more that many nodes have.
func imageLocality() score {
	return score{
		name: "ImageLocality", weight: 1, scope: still, reads: images,
		concerns: func(d *demand) bool { return d.local != nil },
		of:       func(d *demand, n *nodeInfo, _ *cluster) int64 { return d.local[n.at] },
	}
}

func images(of, into *corev1.Pod) {
	for i := range of.Spec.InitContainers {
		into.Spec.InitContainers = append(into.Spec.InitContainers, corev1.Container{Image: of.Spec.InitContainers[i].Image})
	}
	for i := range of.Spec.Containers {
		into.Spec.Containers = append(into.Spec.Containers, corev1.Container{Image: of.Spec.Containers[i].Image})
	}
	for i := range of.Spec.Volumes {
		if image := of.Spec.Volumes[i].Image; image != nil {
			source := corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image.Reference}}
			into.Spec.Volumes = append(into.Spec.Volumes, corev1.Volume{VolumeSource: source})
		}
	}
}

// imagesOf are the names of a pod's images, as nodes report them.
func imagesOf(p *corev1.Pod) (out []string) {
	add := func(name string) {
		if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
			name += ":latest"
		}
		out = append(out, name)
	}
	for i := range p.Spec.InitContainers {
		add(p.Spec.InitContainers[i].Image)
	}
	for i := range p.Spec.Containers {
		add(p.Spec.Containers[i].Image)
	}
	for i := range p.Spec.Volumes {
		if image := p.Spec.Volumes[i].Image; image != nil {
			add(image.Reference)
		}
	}
	return out
}

// locality scores all nodes by the images that they have; nil where none has any.
func (c *cluster) locality(names []string) []int64 {
	key := strings.Join(names, "\n")
	if out, known := c.local[key]; known {
		return out
	}
	var out []int64
	for _, name := range names {
		on := c.images[name]
		spread := float64(len(on)) / float64(len(c.nodes))
		for info, size := range on {
			if out == nil {
				out = make([]int64, len(c.nodes))
			}
			out[info.at] += int64(float64(size) * spread)
		}
	}
	large := int64(largeImage * len(names))
	for i, sum := range out {
		out[i] = best * (min(max(sum, smallImages), large) - smallImages) / (large - smallImages)
	}
	c.local[key] = out
	return out
}

func sameImage(a, b corev1.ContainerImage) bool {
	return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
}

// setImages takes over which images a node has.
func (s *State) setImages(info *nodeInfo, old, now []corev1.ContainerImage) {
	for i := range old {
		for _, name := range old[i].Names {
			if delete(s.images[name], info); len(s.images[name]) == 0 {
				delete(s.images, name)
			}
		}
	}
	for i := range now {
		for _, name := range now[i].Names {
			if s.images[name] == nil {
				s.images[name] = map[*nodeInfo]int64{}
			}
			s.images[name][info] = now[i].SizeBytes
		}
	}
}
