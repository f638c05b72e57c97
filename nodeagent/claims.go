package nodeagent

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/kinds"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/stats"
	"lockstep/nodeagent/volumes"
)

// outside are the volumes of a pod that are measured beside those on the node's disk, by their names in it.
func (a *Agent) outside(p *pod.Pod) map[string]stats.Volume {
	out := map[string]stats.Volume{}
	o := p.Object()
	for _, one := range p.Outside() {
		if v, ok := a.measurable(o, one); ok {
			out[one.Volume.Name] = v
		}
	}
	return out
}

// toMeasure are those of all pods, but for the node's own, which are measured where they are kept.
func (a *Agent) toMeasure() []stats.Volume {
	var out []stats.Volume
	for _, p := range a.allPods() {
		for _, v := range a.outside(p) {
			if v.Measure != nil {
				out = append(out, v)
			}
		}
	}
	return out
}

// lastOf is what a volume was measured to have last, whoever measures it; nil: nothing is known.
func (a *Agent) lastOf(key string) *statsapi.FsStats {
	if own := a.localPath.Of(key); own != nil {
		return own
	}
	return a.meter.Of(key)
}

// measurable says how a volume is measured: as the kubelet does it. False: not at all, as a hostPath.
func (a *Agent) measurable(o *corev1.Pod, one pod.Outside) (stats.Volume, bool) {
	v := stats.Volume{Key: string(o.UID) + "/" + one.Volume.Name}
	if name := kinds.ClaimOf(o, one.Volume); name != "" {
		v.Claim = &statsapi.PVCReference{Namespace: o.Namespace, Name: name}
	}
	driver, nfs, local := one.Volume.CSI != nil, one.Volume.NFS != nil, false
	if one.Of != nil {
		v.Key = one.Of.Name
		driver, nfs, local = one.Of.Source.CSI != nil, one.Of.Source.NFS != nil, one.Of.Source.Local != nil
	}
	switch {
	case one.Of != nil && one.Of.Own != nil:
	case driver:
		of := driversVolume(o, one)
		v.By = of.Source.Driver
		v.Measure = func(ctx context.Context) (*statsapi.FsStats, error) {
			used, err := a.csi.Usage(ctx, of)
			if errors.Is(err, csi.ErrNoUsage) {
				err = stats.ErrUnmeasured
			}
			return used, err
		}
	case one.Device != nil:
		v.By = "devices"
		v.Measure = func(context.Context) (*statsapi.FsStats, error) { return one.Device.Space() }
	case nfs, local:
		v.By = "local"
		if nfs {
			v.By = "nfs " + v.Key // each may be another server's
		}
		v.Measure = func(ctx context.Context) (*statsapi.FsStats, error) { return volumes.Space(ctx, one.HostPath) }
	default:
		return v, false
	}
	return v, true
}

func driversVolume(o *corev1.Pod, one pod.Outside) csi.Volume {
	if one.Of == nil {
		return csi.Inline(o, one.Volume)
	}
	return csi.Claimed(o, one.Of)
}
