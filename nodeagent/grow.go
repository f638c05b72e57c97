package nodeagent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/pod"
)

// growPeriod is how often claims are looked at whose volumes could not be made larger.
const growPeriod = 30 * time.Second

// growClaims has volumes of CSI drivers made larger where pods mount them, once they were made so elsewhere, until ctx ends. One
// that hangs keeps no other one waiting.
func (a *Agent) growClaims(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	var busy sync.Map // the uids of claims that are being seen to
	t := time.NewTicker(growPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.growWake:
		case <-t.C:
		}
		for _, p := range a.allPods() {
			o := p.Object()
			for _, claim := range a.growing(ctx, p, o) {
				if _, at := busy.LoadOrStore(claim.UID, true); at {
					continue
				}
				running.Go(func() {
					defer busy.Delete(claim.UID)
					if err := a.grow(ctx, o, claim); err != nil && ctx.Err() == nil {
						a.events.Event(o, corev1.EventTypeWarning, "FileSystemResizeFailed",
							fmt.Sprintf("MountVolume.NodeExpandVolume failed for volume %q : %v", claim.Spec.VolumeName, err))
					}
				})
			}
		}
	}
}

// growing are the claims of a pod whose volumes are to be made larger on this node.
func (a *Agent) growing(ctx context.Context, p *pod.Pod, o *corev1.Pod) (claims []*corev1.PersistentVolumeClaim) {
	if !p.Active() {
		return nil
	}
	for i := range o.Spec.Volumes {
		name := kinds.ClaimOf(o, &o.Spec.Volumes[i])
		if name == "" {
			continue
		}
		if claim, err := a.content.Latest().PersistentVolumeClaim(ctx, o.Namespace, name); err == nil && kinds.GrowsOnNode(claim) {
			claims = append(claims, claim)
		}
	}
	return claims
}

// grow has the volume of a claim made larger for a pod, and says so.
func (a *Agent) grow(ctx context.Context, o *corev1.Pod, claim *corev1.PersistentVolumeClaim) error {
	pv, err := a.content.PersistentVolume(ctx, claim.Spec.VolumeName)
	if err != nil || pv.Spec.CSI == nil {
		return err
	}
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	v := csi.Volume{Pod: o, Name: pv.Name, Source: *pv.Spec.CSI, Modes: pv.Spec.AccessModes, Options: pv.Spec.MountOptions,
		Block: kinds.Block(pv.Spec.VolumeMode)}
	if err := a.csi.Grow(ctx, v, size.Value()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	claims := a.api().CoreV1().PersistentVolumeClaims(claim.Namespace)
	if _, err := claims.UpdateStatus(ctx, kinds.Grown(claim), metav1.UpdateOptions{}); err != nil {
		return err
	}
	a.events.Event(o, corev1.EventTypeNormal, "FileSystemResizeSuccessful",
		fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q", pv.Name))
	return nil
}
