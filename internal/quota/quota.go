// Package quota bounds what each of many callers may use.
package quota

import (
	"net/netip"
	"sync"
	"time"
)

// maxCallers bounds how many callers are known apart: far more than a cluster has nodes, in some megabytes; names are
// cheap for who has many addresses. Those beyond it share one allowance.
const maxCallers = 1 << 16

// others is the caller that all share who come when maxCallers are busy; no caller has an empty name.
const others = ""

// Rate gives every caller Burst units at first and PerSecond units a second after that. It is made by NewRate, and safe
// for concurrent use.
type Rate struct {
	perSecond, burst float64

	mu      sync.Mutex
	callers map[string]account
	swept   time.Time
}

type account struct {
	left float64 // negative: used ahead of time
	at   time.Time
}

// NewRate makes a rate; both numbers are positive.
func NewRate(perSecond, burst float64) *Rate {
	return &Rate{perSecond: perSecond, burst: burst, callers: map[string]account{}}
}

// Allow takes n units from the caller's allowance and returns true, or returns false where nothing is left of it, and
// takes nothing. The last of an allowance may be overdrawn: what comes next waits the longer.
func (r *Rate) Allow(caller string, n float64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	caller, a := r.account(caller, now)
	if a.left <= 0 {
		return false
	}
	a.left -= n
	r.callers[caller] = a
	return true
}

// Spend takes n units that have been used already.
func (r *Rate) Spend(caller string, n float64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	caller, a := r.account(caller, now)
	a.left -= n
	r.callers[caller] = a
}

func (r *Rate) account(caller string, now time.Time) (string, account) {
	a, known := r.callers[caller]
	if !known && len(r.callers) >= maxCallers {
		r.forget(now)
		if len(r.callers) >= maxCallers {
			caller = others
			a, known = r.callers[caller]
		}
	}
	if !known {
		return caller, account{left: r.burst, at: now}
	}
	return caller, r.later(a, now)
}

func (r *Rate) later(a account, now time.Time) account {
	if passed := now.Sub(a.at); passed > 0 {
		a.left, a.at = min(r.burst, a.left+passed.Seconds()*r.perSecond), now
	}
	return a
}

// forget drops the callers whose allowance is whole again: they are as good as new. It looks at most once a second, so
// that a crowd of new names does not cost a look each.
func (r *Rate) forget(now time.Time) {
	if now.Sub(r.swept) < time.Second {
		return
	}
	r.swept = now
	for name, a := range r.callers {
		if r.later(a, now).left >= r.burst {
			delete(r.callers, name)
		}
	}
}

// Gate lets each caller do so many things at a time. It is made by NewGate, and safe for concurrent use.
type Gate struct {
	most int

	mu     sync.Mutex
	inside map[string]int
}

// NewGate makes a gate; most is positive.
func NewGate(most int) *Gate { return &Gate{most: most, inside: map[string]int{}} }

// Enter returns what to call once when the thing is done; nil where the caller does as many as it may.
func (g *Gate) Enter(caller string) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside[caller] >= g.most {
		return nil
	}
	g.inside[caller]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.inside[caller]--; g.inside[caller] == 0 {
			delete(g.inside, caller)
		}
	}
}

// Peer is the caller that an address stands for, given as host:port: the address, or for IPv6 its /64, which is one
// customer's.
func Peer(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}
