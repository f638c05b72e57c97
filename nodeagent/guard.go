package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/nodeagent/eviction"
	"lockstep/nodeagent/images"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/register"
)

const (
	// guardPeriod is how often the node looks at what it has left, the kubelet's figure.
	guardPeriod = 10 * time.Second
	// guardPatience is how long it waits until what it has ended is down before it ends another; the kubelet's figure.
	guardPatience = 30 * time.Second
	guardPoll     = 100 * time.Millisecond
)

// guard keeps the node from running short, until ctx ends: of memory, disk or processes. It ends one pod at a time, where
// nothing else helps.
func (a *Agent) guard(ctx context.Context) error {
	var state eviction.State
	t := time.NewTicker(guardPeriod)
	defer t.Stop()
	for {
		var out eviction.Outlook
		if levels, err := a.levels(); err != nil {
			a.log.Warn("cannot measure the node", "error", err)
		} else {
			state, out = a.opts.Eviction.Look(state, levels, time.Now())
			a.tellConditions(out.Conditions)
			a.sparePods(slices.Contains(out.Conditions, corev1.NodeDiskPressure))
		}
		if len(out.Shortages) > 0 {
			if p := a.relieve(ctx, out.Shortages); p != nil && a.goneSoon(ctx, p) {
				continue // there may have to go another
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// levels are what the node has left.
func (a *Agent) levels() (eviction.Levels, error) {
	left, err := register.ReadLeft(a.facts.Memory, a.opts.DataDir, a.imageDir)
	if err != nil {
		return nil, err
	}
	levels := eviction.Levels{}
	put := func(s eviction.Signal, available, capacity int64, format resource.Format) {
		if capacity > 0 { // some file systems do not count inodes
			left, all := resource.NewQuantity(available, format), resource.NewQuantity(capacity, format)
			levels[s] = eviction.Level{Available: *left, Capacity: *all}
		}
	}
	put(eviction.MemoryAvailable, left.Memory, a.facts.Memory, resource.BinarySI)
	put(eviction.NodeFSAvailable, left.Node.Bytes, left.Node.Size, resource.BinarySI)
	put(eviction.NodeFSInodesFree, left.Node.Inodes, left.Node.InodesSize, resource.DecimalSI)
	put(eviction.ImageFSAvailable, left.Images.Bytes, left.Images.Size, resource.BinarySI)
	put(eviction.ImageFSInodesFree, left.Images.Inodes, left.Images.InodesSize, resource.DecimalSI)
	put(eviction.PIDAvailable, left.PIDs, left.PIDsAtMost, resource.DecimalSI)
	return levels, nil
}

func (a *Agent) tellConditions(now []corev1.NodeConditionType) {
	a.mu.Lock()
	changed := !slices.Equal(a.conditions, now)
	a.conditions = now
	a.mu.Unlock()
	if changed {
		a.log.Warn("what the node is short of has changed", "conditions", now)
		a.reportNode()
	}
}

func (a *Agent) sparePods(spare bool) {
	for _, p := range a.allPods() {
		p.Spare(spare)
	}
}

// relieve ends a shortage: of disk by what nobody needs, else, or if that is not enough, by the pod that it returns.
func (a *Agent) relieve(ctx context.Context, shortages []eviction.Shortage) *pod.Pod {
	short := &shortages[0]
	a.drift("EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", short.Signal.Resource()))
	if short.Signal.Disk() {
		a.removeImages(ctx, images.Thresholds{All: true})
		if levels, err := a.levels(); err != nil || a.opts.Eviction.Relieved(levels) {
			return nil
		}
	}
	summary, err := a.summary.Summary(ctx)
	if err != nil {
		a.log.Warn("cannot measure the node's pods", "error", err)
		return nil
	}
	stats := map[types.UID]*statsapi.PodStats{}
	for i := range summary.Pods {
		stats[types.UID(summary.Pods[i].PodRef.UID)] = &summary.Pods[i]
	}
	var running []eviction.Pod
	byUID := map[types.UID]*pod.Pod{}
	for _, p := range a.allPods() {
		if o := p.Object(); p.Active() && !kinds.Critical(o) {
			running = append(running, eviction.Pod{Object: o, Stats: stats[o.UID]})
			byUID[o.UID] = p
		}
	}
	if len(running) == 0 {
		a.log.Warn("the node is short, and there is no pod to end", "resource", short.Signal.Resource())
		return nil
	}
	eviction.Rank(running, short.Signal, a.oneDisk())
	first := &running[0]
	p := byUID[first.Object.UID]
	p.Evict(pods.Eviction{Message: eviction.Message(first, shortages), Grace: a.opts.Eviction.Grace(short, first.Object), Pressure: true})
	return p
}

// oneDisk says whether images and layers are on the file system of volumes and logs.
func (a *Agent) oneDisk() bool {
	var node, image unix.Stat_t
	return unix.Stat(a.opts.DataDir, &node) == nil && unix.Stat(a.imageDir, &image) == nil && node.Dev == image.Dev
}

// goneSoon waits for a pod to be down; false if it is not, or ctx has ended.
func (a *Agent) goneSoon(ctx context.Context, p *pod.Pod) bool {
	ctx, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	for !p.Down() {
		if !sleep.For(ctx, guardPoll) {
			return false
		}
	}
	return true
}
