package nodeagent

import (
	"context"
	"time"

	"lockstep/nodeagent/register"
)

// nodeState is what the node reports about itself.
func (a *Agent) nodeState(context.Context) register.State {
	left, err := register.ReadLeft(a.facts.Memory, a.opts.DataDir, a.imageDir)
	if err != nil {
		a.log.Warn("cannot measure the node", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var now register.Pressures
	if err == nil {
		now = a.pressure.Note(left.Crossed(), time.Now())
	}
	s := register.State{MemoryPressure: now.Memory, DiskPressure: now.Disk, PIDPressure: now.PID, Images: a.nodeImages,
		Facts: a.facts, Addresses: a.ips, Version: a.opts.Version, NoNetwork: a.noNetwork}
	if a.down != "" {
		s.NotReady = []string{a.down}
	}
	a.reportVitals(&s, time.Now())
	return s
}
