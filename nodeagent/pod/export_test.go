package pod

import (
	"time"

	"lockstep/nodeagent/images"
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

// Progress is what a pull tells how far it is.
func (p *Pod) Progress(container, image string, tell func(images.Event)) func(done, of int64) {
	return p.progress(container, image, tell)
}
