package pod

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/images"
)

// ensureImage has the container's image on the node and unpacked.
func (p *Pod) ensureImage(ctx context.Context, c *corev1.Container) (Image, error) {
	o := p.Object()
	var secrets []corev1.Secret
	var unreadable []string
	for _, ref := range o.Spec.ImagePullSecrets {
		s, err := p.node.Cluster.Secret(ctx, o.Namespace, ref.Name)
		if ctx.Err() != nil {
			return Image{}, ctx.Err()
		}
		if err != nil { // another one, or what is on the node, may do
			unreadable = append(unreadable, ref.Name)
			continue
		}
		secrets = append(secrets, *s)
	}
	if len(unreadable) > 0 {
		p.Event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.",
			strings.Join(unreadable, ", ")))
	}
	return p.node.Images.Ensure(ctx, images.Request{
		Image: c.Image, Policy: c.ImagePullPolicy, Secrets: secrets,
		Event: func(e images.Event) { p.ContainerEvent(c.Name, e.Type, e.Reason, e.Message) },
	})
}
