package apiservers

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"lockstep/kinds"
	"lockstep/store/view"
)

var now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestReadsWhatIsWritten(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("192.0.2.2:6443")
	early, late := now.Add(-time.Hour), now.Add(-time.Minute)
	second := Lease(nil, "b", b, late, now.Add(-time.Second))
	v := view.Of(
		Lease(nil, "a", a, early, now.Add(-5*time.Second)), second,
		Lease(nil, "silent", netip.MustParseAddrPort("192.0.2.3:6443"), early, now.Add(-Patience)),
		Lease(nil, "gone", netip.MustParseAddrPort("192.0.2.4:6443"), early.Add(-time.Hour), now.Add(-2*time.Hour)),
	)
	servers, until := Running(v, now)
	if !slices.Equal(servers, []netip.AddrPort{a, b}) || !until.Equal(now.Add(time.Second)) {
		t.Errorf("%v run until %v", servers, until)
	}
	if since, ok := Since(v, now); !ok || !since.Equal(early) {
		t.Errorf("since %v, %v", since, ok)
	}
	if gone := Gone(v, now); len(gone) != 1 || kinds.KeyOf(gone[0]) != Key("gone") {
		t.Errorf("gone are %v", gone)
	}
	if servers, _ := Running(v, now.Add(Patience)); len(servers) != 0 {
		t.Errorf("%v still run", servers)
	}
	if _, ok := Since(v, now.Add(Patience)); ok {
		t.Error("somebody takes heartbeats although no server runs")
	}
}

func TestChanged(t *testing.T) {
	at, since := netip.MustParseAddrPort("192.0.2.1:6443"), now.Add(-time.Hour)
	lease := Lease(nil, "a", at, since, now)
	for what, c := range map[string]struct {
		new     kinds.Object
		changed bool
	}{
		"renewed in time":   {Lease(lease, "a", at, since, now.Add(Period)), false},
		"had run out":       {Lease(lease, "a", at, since, now.Add(Patience)), true},
		"another address":   {Lease(lease, "a", netip.MustParseAddrPort("192.0.2.9:6443"), since, now.Add(Period)), true},
		"serves since then": {Lease(lease, "a", at, now, now.Add(Period)), true},
	} {
		if Changed(lease, c.new) != c.changed {
			t.Errorf("%s: changed = %v", what, !c.changed)
		}
	}
}
