package nodeagent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/nodeagent/csi"
)

// growPeriod is how often claims are looked at whose volumes could not be made larger.
const growPeriod = 30 * time.Second

// growClaims has volumes of CSI drivers made larger where pods mount them, once they were made so elsewhere, until ctx ends. One
// that hangs keeps no other one waiting.
func (a *Agent) growClaims(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	busy := map[types.UID]bool{}
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
			for i := range o.Spec.Volumes {
				name := kinds.ClaimOf(o, &o.Spec.Volumes[i])
				if name == "" || !p.Active() {
					continue
				}
				claim, err := a.content.Latest().PersistentVolumeClaim(ctx, o.Namespace, name)
				if err != nil || !kinds.GrowsOnNode(claim) {
					continue
				}
				mu.Lock()
				if !busy[claim.UID] {
					busy[claim.UID] = true
					running.Go(func() {
						if err := a.grow(ctx, o, claim); err != nil && ctx.Err() == nil {
							a.events.Event(o, corev1.EventTypeWarning, "FileSystemResizeFailed",
								fmt.Sprintf("MountVolume.NodeExpandVolume failed for volume %q : %v", claim.Spec.VolumeName, err))
						}
						mu.Lock()
						defer mu.Unlock()
						delete(busy, claim.UID)
					})
				}
				mu.Unlock()
			}
		}
	}
}

// grow has the volume of a claim made larger for a pod, and says so.
func (a *Agent) grow(ctx context.Context, o *corev1.Pod, claim *corev1.PersistentVolumeClaim) error {
	pv, err := a.content.PersistentVolume(ctx, claim.Spec.VolumeName)
	if err != nil || pv.Spec.CSI == nil {
		return err
	}
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	v := csi.Volume{Pod: o, Name: pv.Name, Source: *pv.Spec.CSI, Modes: pv.Spec.AccessModes, Options: pv.Spec.MountOptions,
		Block: pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock}
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
