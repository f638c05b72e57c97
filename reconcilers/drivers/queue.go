package drivers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/reconcilers/csi"
	"lockstep/store/view"
)

// part is what a job is about.
type part int

const (
	attaching    part = iota // a VolumeAttachment
	provisioning             // a claim that has no volume
	removing                 // a volume that is given up
	resizing                 // a claim that asks for more
	measuring                // a driver's capacity
)

// job is one object of one part.
type job struct {
	part            part
	namespace, name string
}

// entry is a job that is to be decided, or runs.
type entry struct {
	due      time.Time // zero: at once
	wanted   bool      // it is to be decided when due
	running  bool
	woken    bool  // while it ran
	seen     int64 // not before the view has this revision
	failures int
}

// queue knows what is to be decided when. Its zero value is not ready; it is of one goroutine.
type queue struct{ jobs map[job]*entry }

func newQueue() queue { return queue{jobs: map[job]*entry{}} }

func (q *queue) entry(j job) *entry {
	if q.jobs[j] == nil {
		q.jobs[j] = &entry{}
	}
	return q.jobs[j]
}

// wake has a job decided. One that waits after a failure is decided when its time has come, unless it is fresh.
func (q *queue) wake(j job) {
	e := q.entry(j)
	switch {
	case e.running:
		e.woken = true
	case e.failures == 0 || !e.wanted:
		e.wanted, e.due = true, time.Time{}
	}
}

// take returns a job that is due, and has it run.
func (q *queue) take(now time.Time, revision int64) (job, bool) {
	for j, e := range q.jobs {
		if e.wanted && !e.running && !now.Before(e.due) && e.seen <= revision {
			e.wanted, e.running, e.woken = false, true, false
			return j, true
		}
	}
	return job{}, false
}

// next is when the next job is due; jobs that wait for the view are woken by its coming.
func (q *queue) next() (next time.Time, ok bool) {
	for _, e := range q.jobs {
		if e.wanted && !e.running && (!ok || e.due.Before(next)) && !e.due.IsZero() {
			next, ok = e.due, true
		}
	}
	return next, ok
}

// done puts a job back that has run.
func (q *queue) done(o outcome, now time.Time) {
	e := q.entry(o.job)
	e.running, e.seen = false, max(e.seen, o.revision)
	switch {
	case o.failed != nil:
		e.failures++
		e.wanted, e.due = true, now.Add(pause(e.failures))
	case o.soon || o.revision > 0 || e.woken:
		e.wanted, e.due = true, now.Add(o.pause)
	case !o.again.IsZero():
		e.wanted, e.due, e.failures = true, o.again, 0
	default:
		delete(q.jobs, o.job)
	}
}

// pause is how long a job waits after so many failures in a row.
func pause(failures int) time.Duration {
	out := firstPause
	for range failures - 1 {
		if out = 2 * out; out >= lastPause {
			return lastPause
		}
	}
	return out
}

func volumeKey(name string) kinds.Key { return kinds.For[*corev1.PersistentVolume]().Key("", name) }

// all wakes all that there is.
func (q *queue) all(v *view.View) {
	for o := range view.List[*storagev1.VolumeAttachment](v, "") {
		q.wake(job{attaching, "", o.Name})
	}
	for o := range view.List[*corev1.PersistentVolume](v, "") {
		if kinds.CSIOf(o) != nil {
			q.wake(job{removing, "", o.Name})
		}
	}
	for o := range view.List[*corev1.PersistentVolumeClaim](v, "") {
		q.claim(o)
	}
	for o := range view.List[*storagev1.CSIDriver](v, "") {
		q.wake(job{measuring, "", o.Name})
	}
}

// claim wakes what may be to be done for a claim.
func (q *queue) claim(c *corev1.PersistentVolumeClaim) {
	if c.Spec.VolumeName == "" && c.Annotations[volume.AnnStorageProvisioner] != kinds.LocalPath ||
		slices.Contains(c.Finalizers, csi.Begun) {
		q.wake(job{provisioning, c.Namespace, c.Name})
	}
	wanted, has := c.Spec.Resources.Requests[corev1.ResourceStorage], c.Status.Capacity[corev1.ResourceStorage]
	if c.Spec.VolumeName != "" && wanted.Cmp(has) > 0 {
		q.wake(job{resizing, c.Namespace, c.Name})
	}
}

// changed wakes what a change concerns.
func (q *queue) changed(v *view.View, c view.Change) {
	of := c.New
	if of == nil {
		of = c.Old
	}
	switch o := of.(type) {
	case *storagev1.VolumeAttachment:
		q.wake(job{attaching, "", o.Name})
		q.wake(job{removing, "", kinds.AttachedVolume(o)})
	case *corev1.PersistentVolume:
		if kinds.CSIOf(o) == nil {
			return
		}
		q.wake(job{removing, "", o.Name})
		if ref := o.Spec.ClaimRef; ref != nil {
			if claim, ok := view.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name); ok {
				q.claim(claim)
			}
		}
	case *corev1.PersistentVolumeClaim:
		q.claim(o)
		if c.New == nil && o.Spec.VolumeName != "" {
			q.wake(job{removing, "", o.Spec.VolumeName})
		}
	case *storagev1.StorageClass:
		for claim := range view.List[*corev1.PersistentVolumeClaim](v, "") {
			if claim.Spec.VolumeName == "" && volume.GetPersistentVolumeClaimClass(claim) == o.Name {
				q.claim(claim)
			}
		}
		q.wake(job{measuring, "", o.Provisioner})
		q.forgive()
	case *storagev1.CSIDriver:
		q.wake(job{measuring, "", o.Name})
		q.forgive()
		q.all(v)
	case *storagev1.CSINode:
		q.node(v, c.Old, c.New)
	case *corev1.Node:
		q.attachments(v, c.Old, c.New)
	}
}

// node has a change of the drivers that a node reaches: where one came, nothing waits for it any longer.
func (q *queue) node(v *view.View, old, new kinds.Object) {
	if old != nil && new != nil && old.GetAnnotations()[kinds.CSIControllers] == new.GetAnnotations()[kinds.CSIControllers] &&
		len(old.(*storagev1.CSINode).Spec.Drivers) == len(new.(*storagev1.CSINode).Spec.Drivers) {
		return
	}
	q.forgive()
	q.all(v)
}

// forgive has what failed tried again at once: somebody has changed what it may have failed for.
func (q *queue) forgive() {
	for _, e := range q.jobs {
		if e.failures > 0 && !e.running {
			e.failures, e.due = 0, time.Time{}
		}
	}
}

// attachments has a change of what a node uses, and of whether it is there.
func (q *queue) attachments(v *view.View, old, new kinds.Object) {
	if old != nil && new != nil {
		was, is := old.(*corev1.Node), new.(*corev1.Node)
		if len(was.Status.VolumesInUse) == len(is.Status.VolumesInUse) && kinds.NodeReady(was) == kinds.NodeReady(is) &&
			kinds.OutOfService(was) == kinds.OutOfService(is) {
			return
		}
	}
	name := ""
	if new != nil {
		name = new.GetName()
	} else {
		name = old.GetName()
	}
	for a := range view.List[*storagev1.VolumeAttachment](v, "") {
		if a.Spec.NodeName == name {
			q.wake(job{attaching, "", a.Name})
		}
	}
	if new == nil {
		for c := range view.List[*corev1.PersistentVolumeClaim](v, "") {
			if c.Annotations[volume.AnnSelectedNode] == name && c.Spec.VolumeName == "" {
				q.claim(c)
			}
		}
	}
}
