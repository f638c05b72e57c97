package daemonset

import (
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds/podstatus"
)

// report counts the nodes, and the oldest pod of each.
func (d *decision) report(collisions int32) {
	status := *d.ds.Status.DeepCopy()
	status.ObservedGeneration = d.ds.Generation
	status.CurrentNumberScheduled, status.NumberMisscheduled, status.DesiredNumberScheduled = 0, 0, 0
	status.NumberReady, status.NumberAvailable, status.UpdatedNumberScheduled = 0, 0, 0
	for _, p := range d.places {
		switch {
		case !p.exists:
		case !p.wanted:
			if len(p.pods) > 0 {
				status.NumberMisscheduled++
			}
		default:
			status.DesiredNumberScheduled++
			if len(p.pods) == 0 {
				continue
			}
			oldest := p.pods[0]
			status.CurrentNumberScheduled++
			if podstatus.Ready(&oldest.Status) {
				status.NumberReady++
				if d.available(oldest) {
					status.NumberAvailable++
				}
			}
			if d.updated(oldest) {
				status.UpdatedNumberScheduled++
			}
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	if collisions > 0 {
		status.CollisionCount = &collisions
	}
	if equality.Semantic.DeepEqual(d.ds.Status, status) {
		return
	}
	changed := d.ds.DeepCopy()
	changed.Status = status
	d.Status = changed
}
