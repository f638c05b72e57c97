package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/images"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/userns"
	"lockstep/nodeagent/volumes"
)

// ensureImage has the container's image on the node and unpacked.
func (p *Pod) ensureImage(ctx context.Context, c *corev1.Container) (Image, error) {
	defer p.pulling(c.Name, "")
	tell := func(e images.Event) { p.ContainerEvent(c.Name, e.Type, e.Reason, e.Message) }
	return p.pull(ctx, images.Request{
		Image: c.Image, Policy: c.ImagePullPolicy, Event: tell, Progress: p.progress(c.Name, c.Image, tell),
	})
}

// progress tells how far the pull of an image is that a container waits for: each time in the container's state and, the first, second,
// fourth, eighth time and so on, by an event. A pull of half a day has a dozen.
func (p *Pod) progress(container, image string, tell func(images.Event)) func(done, of int64) {
	times, next := 0, 1
	return func(done, of int64) {
		how := images.Pulling(image, done, of)
		p.pulling(container, how)
		if times++; times == next {
			next *= 2
			tell(images.Event{Type: corev1.EventTypeNormal, Reason: "Pulling", Message: how})
		}
	}
}

// pulling says how far the pull of a container's image is; empty where there is none.
func (p *Pod) pulling(container, how string) {
	p.mu.Lock()
	same := p.pulls[container] == how
	p.mu.Unlock()
	if same {
		return
	}
	p.change(func() {
		if how == "" {
			delete(p.pulls, container)
		} else {
			p.pulls[container] = how
		}
	})
}

// pull has an image on the node, with the pod's pull secrets.
func (p *Pod) pull(ctx context.Context, req images.Request) (Image, error) {
	found, unreadable, err := p.pullSecrets(ctx)
	if err != nil {
		return Image{}, err
	}
	req.Secrets = found
	if len(unreadable) > 0 {
		p.Event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.",
			strings.Join(unreadable, ", ")))
	}
	return p.node.Images.Ensure(ctx, req)
}

// PullSecrets are those of the pod's that can be read. The error is ctx's.
func (p *Pod) PullSecrets(ctx context.Context) ([]corev1.Secret, error) {
	found, _, err := p.pullSecrets(ctx)
	return found, err
}

// pullSecrets are those that can be read, and the names of the others: one of those, or what is on the node, may do.
func (p *Pod) pullSecrets(ctx context.Context) (found []corev1.Secret, unreadable []string, err error) {
	o := p.Object()
	for _, ref := range o.Spec.ImagePullSecrets {
		s, err := p.node.Cluster.Secret(ctx, o.Namespace, ref.Name)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			unreadable = append(unreadable, ref.Name)
			continue
		}
		found = append(found, *s)
	}
	return found, unreadable, nil
}

// Moved says which tag of the pod's images is elsewhere now; empty where none is.
func (p *Pod) Moved(which string) {
	p.mu.Lock()
	was := p.wanted.Moved
	p.wanted.Moved = which
	p.mu.Unlock()
	if which == was {
		return
	}
	if which != "" {
		p.Event(corev1.EventTypeWarning, "ImageTagMoved", which)
	}
	p.Poke()
}

// imageVolumes has those volumes of a container mounted that show images. Each is resolved once for the pod: its
// containers see the same files, and see them again when they restart. One that cannot be had keeps no container waiting
// that does not mount it.
func (p *Pod) imageVolumes(ctx context.Context, o *corev1.Pod, c *corev1.Container) (map[string]volumes.Mounted, error) {
	mounted := map[string]volumes.Mounted{}
	for i := range o.Spec.Volumes {
		v := &o.Spec.Volumes[i]
		mounts := func(m corev1.VolumeMount) bool { return m.Name == v.Name }
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, mounts) {
			continue
		}
		one, err := p.imageVolume(ctx, v, c.Name)
		if err != nil {
			return nil, err
		}
		mounted[v.Name] = one
	}
	return mounted, nil
}

func (p *Pod) imageVolume(ctx context.Context, v *corev1.Volume, container string) (volumes.Mounted, error) {
	p.viewing.Lock()
	defer p.viewing.Unlock()
	if mounted, ok := p.node.Volumes.Image(p.uid, v.Name); ok {
		return mounted, nil
	}
	tell := func(e images.Event) { p.Event(e.Type, e.Reason, e.Message) }
	image, err := p.pull(ctx, images.Request{
		Image: v.Image.Reference, Policy: v.Image.PullPolicy, Event: tell, Progress: p.progress(container, v.Image.Reference, tell),
	})
	p.pulling(container, "")
	if err != nil {
		return volumes.Mounted{}, err
	}
	p.change(func() { p.traces = true })
	layers, err := p.node.Containers.View(ctx, runtime.ViewID(string(p.uid), v.Name), image.ChainID)
	if err != nil {
		return volumes.Mounted{}, &stepError{spec.ReasonCreate, err}
	}
	if err := p.node.shiftView(p.Object(), layers); err != nil {
		return volumes.Mounted{}, &stepError{spec.ReasonCreate, err}
	}
	mounted, err := p.node.Volumes.MountImage(ctx, p.uid, v.Name, layers)
	if err != nil {
		return volumes.Mounted{}, &stepError{spec.ReasonCreate, err}
	}
	return mounted, nil
}

// shiftView has the files of a view that is an overlay be those of the pod's user namespace, if it has one of its own: an
// overlay is not to be mounted with other IDs afterwards.
func (n *Node) shiftView(o *corev1.Pod, layers []mount.Mount) error {
	first, err := n.usersOf(o)
	if err != nil || first == 0 {
		return err
	}
	ids := fmt.Sprintf("0:%d:%d", first, userns.Length)
	for i := range layers {
		if layers[i].Type == "overlay" {
			layers[i].Options = append(layers[i].Options, "uidmap="+ids, "gidmap="+ids)
		}
	}
	return nil
}

// dropViews removes what was mounted of images for the pod's volumes; nothing of it is mounted any more.
func (p *Pod) dropViews(ctx context.Context) error {
	var errs []error
	for _, v := range p.Object().Spec.Volumes {
		if v.Image != nil {
			errs = append(errs, p.node.Containers.DropLayer(ctx, runtime.ViewID(string(p.uid), v.Name)))
		}
	}
	return errors.Join(errs...)
}
