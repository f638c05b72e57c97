package pod

import (
	"time"

	"lockstep/nodeagent/pods"
)

// Delay has a step that failed wait until then; it says whether it had failed.
func (p *Pod) Delay(k pods.Key, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.failures[k]
	if ok {
		f.Until = until
		p.failures[k] = f
	}
	return ok
}
