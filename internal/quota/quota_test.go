package quota

import (
	"fmt"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestRate(t *testing.T) {
	r := NewRate(2, 10)
	n := 0
	for r.Allow("a", 1, start) {
		n++
	}
	if n != 10 {
		t.Errorf("the first burst has %d units, want 10", n)
	}
	if !r.Allow("b", 1, start) {
		t.Error("one caller spends another's allowance")
	}
	if r.Allow("a", 1, start.Add(-time.Hour)) {
		t.Error("a clock that goes back gives units")
	}
	if !r.Allow("a", 100, start.Add(time.Second)) || r.Allow("a", 1, start.Add(40*time.Second)) ||
		!r.Allow("a", 1, start.Add(51*time.Second)) {
		t.Error("a large use is not paid back before the next one")
	}
	r.Spend("b", 1000, start)
	if r.Allow("b", 1, start.Add(time.Minute)) {
		t.Error("what was spent does not count")
	}
}

func TestRateKnowsFewCallers(t *testing.T) {
	r := NewRate(1, 1)
	allowed := 0
	for i := range 3 * maxCallers {
		if r.Allow(fmt.Sprint(i), 1, start) {
			allowed++
		}
	}
	if allowed > maxCallers+1 || len(r.callers) > maxCallers+1 {
		t.Errorf("%d callers were allowed, %d are remembered", allowed, len(r.callers))
	}
	if !r.Allow("new", 1, start.Add(time.Minute)) || len(r.callers) > 2 {
		t.Errorf("callers that are whole again are not forgotten: %d", len(r.callers))
	}
}

func TestGate(t *testing.T) {
	g := NewGate(2)
	one, two := g.Enter("a"), g.Enter("a")
	if one == nil || two == nil || g.Enter("a") != nil || g.Enter("b") == nil {
		t.Error("a gate for two lets in another number")
	}
	one()
	two()
	if g.Enter("a") == nil || len(g.inside) != 2 {
		t.Errorf("who has left is still counted: %v", g.inside)
	}
}

func TestPeer(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8::1:2]:80": "2001:db8::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "@": "@",
	} {
		if got := Peer(address); got != want {
			t.Errorf("Peer(%q) = %q, want %q", address, got, want)
		}
	}
}
