// Package eviction decides what a node does that runs short of memory, disk or processes: what it says of itself, whether
// pods must go, and which first, all in the kubelet's order and words.
package eviction

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"lockstep/kinds"
)

// Signal is something of which a node can run short, by the kubelet's name.
type Signal string

// The signals that a policy may be about. Layers that containers write are where images are: on the image file system.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFSAvailable   Signal = "nodefs.available"
	NodeFSInodesFree  Signal = "nodefs.inodesFree"
	ImageFSAvailable  Signal = "imagefs.available"
	ImageFSInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Names of what runs short, besides Kubernetes' own resources.
const (
	inodes corev1.ResourceName = "inodes"
	pids   corev1.ResourceName = "pids"
)

// meaning is what a signal is about, and the condition of a node that is short of it; ok is false for a name that is no
// signal.
func (s Signal) meaning() (of corev1.ResourceName, condition corev1.NodeConditionType, ok bool) {
	switch s {
	case MemoryAvailable:
		return corev1.ResourceMemory, corev1.NodeMemoryPressure, true
	case NodeFSAvailable, ImageFSAvailable:
		return corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure, true
	case NodeFSInodesFree, ImageFSInodesFree:
		return inodes, corev1.NodeDiskPressure, true
	case PIDAvailable:
		return pids, corev1.NodePIDPressure, true
	}
	return "", "", false
}

// Resource is what the signal is about: memory, ephemeral-storage, inodes or pids.
func (s Signal) Resource() corev1.ResourceName {
	of, _, _ := s.meaning()
	return of
}

// Disk says whether removing images can help.
func (s Signal) Disk() bool {
	_, condition, _ := s.meaning()
	return condition == corev1.NodeDiskPressure
}

// Amount is a quantity, or a part of what there is in all, which is 1; the zero value is nothing.
type Amount struct {
	Quantity *resource.Quantity
	Part     float32
}

func (a Amount) of(capacity resource.Quantity) resource.Quantity {
	if a.Quantity != nil {
		return a.Quantity.DeepCopy()
	}
	return *resource.NewQuantity(int64(float64(capacity.Value())*float64(a.Part)), capacity.Format)
}

// Threshold says when a node is short of something.
type Threshold struct {
	Signal Signal
	Below  Amount
	// Grace is how long it may be so before pods end; zero is a hard threshold, whose pods end at once.
	Grace time.Duration
	// Reclaim is how much more than Below there must be before a node that has ended pods stops ending more.
	Reclaim Amount
}

// Policy is how a node guards itself. The zero value guards against nothing; Default is the kubelet's.
type Policy struct {
	Thresholds []Threshold
	// Hold is how long a node says that it is short after it was last so, or pods would come and go; zero is not at all.
	Hold time.Duration
	// MostGrace bounds the grace period of pods that end by a soft threshold.
	MostGrace time.Duration
}

// Level is what there is of something.
type Level struct{ Available, Capacity resource.Quantity }

// Levels are what there is on a node; what cannot be measured, or has no bound, is not in it.
type Levels map[Signal]Level

// crossed says whether the threshold is, or with its reclaim added.
func (t *Threshold) crossed(levels Levels, reclaim bool) bool {
	level, ok := levels[t.Signal]
	if !ok {
		return false
	}
	below := t.Below.of(level.Capacity)
	if reclaim {
		below.Add(t.Reclaim.of(level.Capacity))
	}
	return below.Cmp(level.Available) > 0
}

// State is what a node remembers of the times it looked before. The zero value remembers nothing.
type State struct {
	since  map[int]time.Time // when a threshold, by its place in the policy, was crossed
	acting map[int]bool      // those that pods have to go for
	seen   map[corev1.NodeConditionType]time.Time
}

// Shortage is a threshold for which pods have to go.
type Shortage struct {
	Threshold
	Level Level
}

// Outlook is what levels mean.
type Outlook struct {
	// Conditions are the node's, sorted.
	Conditions []corev1.NodeConditionType
	// Shortages are those to end, the most urgent first: memory, since a node without it cannot do anything else, then in
	// the policy's order.
	Shortages []Shortage
}

// Look says what the levels mean now, and what to remember of them.
func (p Policy) Look(s State, levels Levels, now time.Time) (State, Outlook) {
	next := State{since: map[int]time.Time{}, acting: map[int]bool{}, seen: map[corev1.NodeConditionType]time.Time{}}
	for condition, at := range s.seen {
		next.seen[condition] = at
	}
	var out Outlook
	for i := range p.Thresholds {
		t := &p.Thresholds[i]
		if !t.crossed(levels, s.acting[i]) {
			continue
		}
		since, before := s.since[i]
		if !before {
			since = now
		}
		next.since[i] = since
		_, condition, _ := t.Signal.meaning()
		next.seen[condition] = now
		if now.Sub(since) >= t.Grace {
			next.acting[i] = true
			out.Shortages = append(out.Shortages, Shortage{*t, levels[t.Signal]})
		}
	}
	slices.SortStableFunc(out.Shortages, func(a, b Shortage) int {
		return first(a.Signal == MemoryAvailable, b.Signal == MemoryAvailable)
	})
	for condition, at := range next.seen {
		if now.Sub(at) < p.Hold || now.Equal(at) {
			out.Conditions = append(out.Conditions, condition)
		}
	}
	slices.Sort(out.Conditions)
	return next, out
}

// Kept is what pods cannot have of a node's memory and disk, in bytes: what is left where its hard thresholds are.
func (p *Policy) Kept(memory, disk int64) (ofMemory, ofDisk int64) {
	for i := range p.Thresholds {
		t := &p.Thresholds[i]
		of := func(capacity int64) int64 {
			kept := t.Below.of(*resource.NewQuantity(capacity, resource.BinarySI))
			return kept.Value()
		}
		switch {
		case t.Grace > 0:
		case t.Signal == MemoryAvailable:
			ofMemory = of(memory)
		case t.Signal == NodeFSAvailable:
			ofDisk = of(disk)
		}
	}
	return ofMemory, ofDisk
}

// Relieved says that nothing is short any more, and what must be reclaimed has been.
func (p Policy) Relieved(levels Levels) bool {
	return !slices.ContainsFunc(p.Thresholds, func(t Threshold) bool { return t.crossed(levels, true) })
}

// Grace is the grace period of a pod that ends for a shortage.
func (p Policy) Grace(s *Shortage, pod *corev1.Pod) time.Duration {
	if s.Threshold.Grace == 0 {
		return HardGrace
	}
	grace := p.MostGrace
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = min(grace, kinds.Seconds(*own))
	}
	return grace
}

// HardGrace is what a pod gets that must go at once; the kubelet's figure.
const HardGrace = time.Second

// first sorts what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// Refuses says why a node with such conditions does not take a pod that is bound to it; empty if it does. What a system
// needs it takes always, and one that is short of memory alone takes whoever has asked for some.
func Refuses(conditions []corev1.NodeConditionType, pod *corev1.Pod, qos corev1.PodQOSClass) string {
	if len(conditions) == 0 || kinds.Critical(pod) {
		return ""
	}
	if len(conditions) == 1 && conditions[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		tolerates := helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
		if qos != corev1.PodQOSBestEffort || tolerates {
			return ""
		}
	}
	return fmt.Sprintf("The node had condition: %v. ", conditions)
}
