package api

import (
	"sync"

	"lockstep/daemon/rights"
	"lockstep/store/view"
)

// policies keeps the policy of the newest view that somebody was judged by, for as long as its roles and bindings stay: where only
// nodes ask, there is none.
type policies struct {
	mu      sync.Mutex
	edition rights.Edition
	policy  *rights.Policy
}

// of is that of a view.
func (p *policies) of(v *view.View) *rights.Policy {
	edition := rights.EditionOf(v)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.policy == nil || p.edition != edition {
		p.policy, p.edition = rights.PolicyOf(v), edition
	}
	return p.policy
}
