package nodeagent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/nodeagent/images"
)

// collectImages imports the archives of ImagesDir, then removes unused images
// when the disk fills, until ctx ends.
func (a *Agent) collectImages(ctx context.Context) error {
	if a.opts.ImagesDir != "" {
		names, err := a.images.Import(ctx, a.opts.ImagesDir)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot import all images", "error", err)
		}
		if len(names) > 0 {
			a.log.Info("imported images", "count", len(names))
		}
	}
	close(a.imported)
	t := time.NewTicker(collectPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		a.removeImages(ctx, images.Thresholds{})
	}
}

// removeImages removes images that no pod of this node states.
func (a *Agent) removeImages(ctx context.Context, t images.Thresholds) {
	var wanted []string
	for _, p := range a.allPods() {
		o := p.Object()
		for _, cs := range [][]corev1.Container{o.Spec.InitContainers, o.Spec.Containers} {
			for i := range cs {
				wanted = append(wanted, cs[i].Image)
			}
			for _, v := range o.Spec.Volumes {
				if v.Image != nil {
					wanted = append(wanted, v.Image.Reference)
				}
			}
		}
	}
	removed, err := a.images.Collect(ctx, wanted, t)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("cannot remove unused images", "error", err)
	}
	for _, c := range removed {
		poke(a.imagesWake)
		a.log.Info("removed unused image", "names", c.Names, "bytes", c.Size)
	}
}

// listPeriod is how often the images are looked at without a reason.
const listPeriod = time.Minute

// listImages keeps what the node reports of its images up to date.
func (a *Agent) listImages(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.imported:
	}
	t := time.NewTicker(listPeriod)
	defer t.Stop()
	for {
		list, err := a.images.List(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot list images", "error", err)
		}
		if err == nil {
			a.mu.Lock()
			changed := !equality.Semantic.DeepEqual(a.nodeImages, list)
			a.nodeImages = list
			a.mu.Unlock()
			if changed {
				a.reportNode()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.imagesWake:
		case <-t.C:
		}
	}
}
